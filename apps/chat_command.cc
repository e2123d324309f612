#include "apps/chat_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <utility>

#include "apps/interrupt.h"
#include "apps/output.h"
#include "base/log.h"
#include "base/utf8.h"
#include "chat/answer.h"
#include "chat/template.h"
#include "serve/stop_strings.h"

namespace moray {

namespace {

// Writes an answer as it comes: the reasoning dimmed on a terminal, else between two lines that say so.
class AnswerPrinter {
 public:
  explicit AnswerPrinter(bool silent) : silent_(silent), terminal_(::isatty(STDOUT_FILENO) != 0) {}

  void show(const AnswerDelta& delta) {
    if (!delta.reasoning.empty()) part(Part::reasoning, delta.reasoning);
    if (!delta.content.empty()) part(Part::content, delta.content);
    for (const AnswerDelta::Call& call : delta.calls)
      part(Part::content,
           call.name.empty() ? call.arguments : fmt::format("\n[tool {}] {}", call.name, call.arguments));
  }
  void finish() {
    write(replace_invalid_utf8(characters_.finish()), write_text);
    enter(Part::none);
    write("\n");
  }

 private:
  enum class Part { none, reasoning, content };

  void part(Part next, const std::string& text) {
    enter(next);
    write(replace_invalid_utf8(characters_.push(text)), write_text);
  }
  void enter(Part next) {
    if (next == part_) return;
    if (part_ == Part::reasoning) write(terminal_ ? "\033[0m\n\n" : "\n[end of reasoning]\n");
    if (next == Part::reasoning) write(terminal_ ? "\033[2m" : "[reasoning]\n");
    part_ = next;
  }
  void write(std::string_view text, void (*how)(std::string_view) = write_output) const {
    if (!silent_) how(text);
  }

  bool silent_, terminal_;
  Part part_ = Part::none;
  Utf8Stream characters_;
};

Thinking thinking_of(const std::string& name) {
  return name == "on" ? Thinking::on : name == "off" ? Thinking::off : Thinking::by_default;
}

ChatTemplate template_of(const ChatOptions& options, const fs::path& folder) {
  return options.chat_template.empty() ? read_chat_template(folder)
                                       : chat_template_named(options.chat_template);
}

Conversation new_conversation(const ChatOptions& options) {
  Conversation conversation;
  if (!options.system.empty())
    conversation.messages.push_back({.role = Role::system, .content = options.system});
  return conversation;
}

// Of the first prompt, as far as it is known.
size_t first_prompt_tokens(const ChatOptions& options, const ChatTemplate& chat_template,
                           const Serving& serving) {
  Conversation conversation = new_conversation(options);
  conversation.messages.push_back({.role = Role::user, .content = options.message.value_or("")});
  const size_t tokens = render_chat(chat_template, conversation, thinking_of(options.thinking))
                            .encode(serving.tokenizer())
                            .size();
  if (static_cast<int64_t>(tokens) >= serving.context_tokens())
    fail("{} of {} tokens, but the context has {}", options.message ? "--message" : "--system", tokens,
         serving.context_tokens());
  return tokens;
}

class Chat {
 public:
  Chat(const ChatOptions& options, ChatTemplate chat_template, Serving& serving)
      : options_(options),
        serving_(serving),
        template_(std::move(chat_template)),
        thinking_(thinking_of(options.thinking)),
        sampling_(sampling_of(options.answer)),
        end_tokens_(options.answer.stop_tokens),
        conversation_(new_conversation(options)) {
    end_tokens_.insert(end_tokens_.end(), serving.end_tokens().begin(), serving.end_tokens().end());
  }

  void restart() { conversation_ = new_conversation(options_); }
  void set_thinking(Thinking thinking) { thinking_ = thinking; }

  // The answer to one more message of the user, shown as it comes and remembered.
  Generation answer(const std::string& message, Answer& answer, bool silent) {
    conversation_.messages.push_back({.role = Role::user, .content = message});
    const ChatPrompt prompt = render_chat(template_, conversation_, thinking_);
    const std::vector<int32_t> ids = prompt.encode(serving_.tokenizer());
    const int64_t room = serving_.context_tokens() - static_cast<int64_t>(ids.size());
    if (room < 1) {
      conversation_.messages.pop_back();
      fail("the conversation of {} tokens fills the context of {}; /new begins another", ids.size(),
           serving_.context_tokens());
    }
    const GenerateOptions generate_options{.sampling = sampling_,
                                           .max_tokens = std::min(options_.answer.max_tokens, room),
                                           .end_tokens = end_tokens_,
                                           .sampled_vocabulary = serving_.tokenizer().vocabulary_size(),
                                           .prompt_progress = prompt_progress_line()};
    AnswerParser parser(template_.family, prompt.within_thinking);
    AnswerPrinter printer(silent);
    StopStrings stops(options_.answer.stop);
    take_interrupt();  // one of before
    Generation generation =
        generate(serving_.engine(), ids, generate_options, [&](const GeneratedToken& token) {
          printer.show(parser.push(stops.push(serving_.tokenizer().token_bytes(token.id))));
          return !stops.stopped() && !interrupted();
        });
    if (stops.stopped()) generation.finish = FinishReason::stop;
    if (generation.tokens.empty() && generation.finish == FinishReason::stopped_by_caller) {
      conversation_.messages.pop_back();  // within the prompt: as if it had not been asked
      return generation;
    }
    printer.show(parser.push(stops.finish()));
    printer.show(parser.finish());
    printer.finish();
    answer = parser.answer();
    conversation_.messages.push_back(
        {.role = Role::assistant, .content = answer.content, .tool_calls = answer.tool_calls});
    return generation;
  }

 private:
  const ChatOptions& options_;
  Serving& serving_;
  ChatTemplate template_;
  Thinking thinking_;
  SamplingOptions sampling_;
  std::vector<int32_t> end_tokens_;
  Conversation conversation_;
};

void print_speed(const Generation& generation) {
  const auto rate = [](double tokens, double seconds) { return seconds > 0 ? tokens / seconds : 0; };
  const auto computed = static_cast<double>(generation.computed_prompt_tokens);
  const auto tokens = static_cast<double>(generation.tokens.size());
  log::plain("[prompt {} tokens in {:.2f} s ({:.1f}/s), answer {} tokens ({:.2f}/s){}]\n",
             generation.computed_prompt_tokens, generation.prompt_seconds,
             rate(computed, generation.prompt_seconds), generation.tokens.size(),
             rate(tokens, generation.seconds),
             generation.finish == FinishReason::length              ? ", cut at --max-tokens"
             : generation.finish == FinishReason::stopped_by_caller ? ", stopped"
                                                                    : "");
}

int answer_one(Chat& chat, const ChatOptions& options) {
  Answer answer;
  const Generation generation = chat.answer(*options.message, answer, options.json);
  if (generation.finish == FinishReason::stopped_by_caller) return kInterruptedStatus;
  if (!options.json) {
    print_speed(generation);
    return 0;
  }
  nlohmann::ordered_json json{{"reasoning", replace_invalid_utf8(answer.reasoning)},
                              {"content", replace_invalid_utf8(answer.content)}};
  for (const ToolCall& call : answer.tool_calls)
    json["tool_calls"].push_back(
        {{"id", call.id}, {"name", call.name}, {"arguments", replace_invalid_utf8(call.arguments)}});
  json["completion_tokens"] = generation.tokens.size();
  json["finish_reason"] = generation.finish == FinishReason::length ? "length" : "stop";
  json["prompt_seconds"] = generation.prompt_seconds;
  json["seconds"] = generation.seconds;
  print_json(json);
  return 0;
}

// Lines of standard input; Ctrl-C while one is awaited gives up what was typed of it.
class InputLines {
 public:
  enum class Next { line, end, interrupted };

  // Throws Error for a line that is no message of a person.
  Next next(std::string& line) {
    constexpr size_t kMostBytes = 4 << 20;
    size_t length = pending_.find('\n');
    while (length == std::string::npos && !ended_) {
      if (pending_.size() > kMostBytes) fail("standard input: a line of more than {} bytes", kMostBytes);
      if (!wait_for_input(STDIN_FILENO)) return Next::interrupted;
      read_more();
      length = pending_.find('\n', searched_);
    }
    searched_ = 0;
    if (pending_.empty()) return Next::end;
    line = pending_.substr(0, length);
    pending_.erase(0, length == std::string::npos ? length : length + 1);
    if (line.ends_with('\r')) line.pop_back();
    return Next::line;
  }

 private:
  void read_more() {
    char bytes[4096];
    searched_ = pending_.size();
    const ssize_t count = ::read(STDIN_FILENO, bytes, sizeof bytes);
    if (count > 0)
      pending_.append(bytes, static_cast<size_t>(count));
    else if (count == 0 || errno != EINTR)
      ended_ = true;
  }

  std::string pending_;
  size_t searched_ = 0;  // bytes known to hold no end of a line
  bool ended_ = false;
};

constexpr std::string_view kCommands =
    "/new begins another conversation, /think on|off, /help, Ctrl-C stops an answer, Ctrl-D ends\n";

int converse(Chat& chat) {
  const bool terminal = ::isatty(STDIN_FILENO) != 0;
  if (terminal) log::write_plain(kCommands);
  InputLines lines;
  while (true) {
    if (terminal) log::plain("> ");
    std::string line;
    const InputLines::Next next = lines.next(line);
    if (next == InputLines::Next::end) return 0;
    if (next == InputLines::Next::interrupted) {
      take_interrupt();
      log::plain("\n");
      continue;
    }
    if (line.empty()) continue;
    if (line == "/quit") return 0;
    if (line == "/help") {
      log::write_plain(kCommands);
    } else if (line == "/new") {
      chat.restart();
      log::plain("[a new conversation]\n");
    } else if (line == "/think on" || line == "/think off") {
      chat.set_thinking(thinking_of(line.substr(line.rfind(' ') + 1)));
    } else {
      try {
        Answer answer;
        print_speed(chat.answer(line, answer, false));
      } catch (const Error& error) {  // what cannot be answered does not end the conversation
        log::plain("{}\n", on_one_line(error.what()));
        if (!terminal) return 1;
      }
      take_interrupt();  // what stopped the answer is not pressed at the next prompt
    }
  }
}

}  // namespace

int run_chat(const ChatOptions& options) {
  const SamplingOptions sampling = sampling_of(options.answer);
  StopStrings(options.answer.stop);  // throws for empty ones
  if (options.json && !options.message) fail("chat: --json goes with --message");
  ChatTemplate chat_template;
  Serving serving(options.serving, options.answer.max_tokens, [&](const Serving& unloaded) {
    chat_template = template_of(options, unloaded.folder());  // before long work
    expect_known_tokens(options.answer, sampling, unloaded.tokenizer());
    return first_prompt_tokens(options, chat_template, unloaded);
  });
  Chat chat(options, std::move(chat_template), serving);
  const InterruptGuard guard;
  return options.message ? answer_one(chat, options) : converse(chat);
}

}  // namespace moray
