#include "apps/tokenizer_command.h"

#include <fmt/format.h>

#include <charconv>
#include <cstdio>
#include <cstring>
#include <optional>

#include "apps/input.h"
#include "apps/model_argument.h"
#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/utf8.h"
#include "chat/template.h"
#include "data/bpe_train.h"
#include "report/progress.h"

namespace moray {

namespace {
std::vector<int64_t> read_ids() {
  const std::string text = read_text("-");
  std::vector<int64_t> ids;
  const char* end = text.data() + text.size();
  for (const char* at = text.data(); at < end;) {
    if (std::strchr(" \t\r\n,[]", *at) != nullptr && *at != '\0') {
      ++at;
      continue;
    }
    int64_t id = 0;
    const auto [next, error] = std::from_chars(at, end, id);
    if (error != std::errc()) fail("standard input: no token id at byte {}", at - text.data());
    ids.push_back(id);
    at = next;
  }
  return ids;
}

// The file or folder that holds the tokenizer.
fs::path chosen_path(const TokenizerChoice& choice) {
  if (choice.tokenizer.empty() == choice.model.empty()) fail("give either --tokenizer or --model");
  if (!choice.tokenizer.empty()) return choice.tokenizer;
  std::error_code error;
  const fs::path model = choice.model;
  return fs::is_regular_file(model, error) ? model : resolve_model_folder(model);
}

void print(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
    fail("standard output: cannot write");
}
int encode_chat(const TokenizerEncodeOptions& options) {
  if (!options.text.empty() || !options.input.empty() || options.special_tokens || options.prompt)
    fail("--chat takes none of --text, --input, --special-tokens and --prompt");
  const fs::path path = chosen_path(options.choice);
  const Tokenizer tokenizer = Tokenizer::read(path);
  const ChatTemplate chat_template =
      options.chat_template.empty() ? read_chat_template(path) : chat_template_named(options.chat_template);
  const Conversation conversation =
      parse_conversation(read_text(options.chat), options.chat == "-" ? "standard input" : options.chat);
  const ChatPrompt prompt = render_chat(chat_template, conversation,
                                        options.thinking == "on"    ? Thinking::on
                                        : options.thinking == "off" ? Thinking::off
                                                                    : Thinking::by_default);
  const std::vector<int32_t> ids = prompt.encode(tokenizer);
  if (options.json)
    print(fmt::format("{{\"prompt\": {}, \"ids\": [{}], \"count\": {}, \"bytes\": {}}}\n",
                      json_quote(prompt.text()), fmt::join(ids, ", "), ids.size(), prompt.text().size()));
  else
    print(fmt::format("{}\n\n{}\n", prompt.text(), fmt::join(ids, " ")));
  return 0;
}
}  // namespace

int run_tokenizer_train(const TokenizerTrainOptions& options) {
  if (options.output.empty()) fail("no output folder given for the tokenizer");
  DocumentStream documents(options.corpora, options.held_out);
  int64_t count = 0;
  uint64_t bytes = 0;
  Progress reading("read", 0, "bytes");
  std::optional<Progress> merging;
  BpeTrainOptions train;
  train.vocabulary_size = options.vocabulary_size;
  train.max_text_bytes = options.max_text_bytes;
  train.progress = [&](int64_t done, int64_t wanted) {
    if (!merging) merging.emplace("tokenizer", wanted, "merges");
    merging->update(done);
  };
  StreamedDocument streamed;
  const NextDocument next = [&](std::string& text) {
    do {
      if (!documents.next(streamed)) return false;
    } while (streamed.held_out);
    text = std::move(streamed.document.text);
    ++count;
    bytes += text.size();
    reading.update(static_cast<int64_t>(bytes));
    return true;
  };
  const Tokenizer tokenizer = train_bpe(next, train);
  std::error_code error;
  fs::create_directories(options.output, error);
  if (error) fail("{}: cannot create the folder: {}", options.output, error.message());
  tokenizer.write(options.output);
  if (options.json)
    print(fmt::format("{{\"tokenizer\": {}, \"vocabulary_size\": {}, \"documents\": {}, \"bytes\": {}}}\n",
                      json_quote(options.output), tokenizer.vocabulary_size(), count, bytes));
  else
    print(fmt::format("{}: {} tokens, trained on {} documents, {:.1f} MB\n", options.output,
                      tokenizer.vocabulary_size(), count, static_cast<double>(bytes) / 1e6));
  log::info("what next: moray data build --corpus PATH --tokenizer {} --output DATASET", options.output);
  return 0;
}

int run_tokenizer_encode(const TokenizerEncodeOptions& options) {
  if (!options.chat.empty()) return encode_chat(options);
  if (!options.chat_template.empty() || !options.thinking.empty())
    fail("--chat-template and --thinking belong to --chat");
  const Tokenizer tokenizer = Tokenizer::read(chosen_path(options.choice));
  if (!options.text.empty() && !options.input.empty()) fail("give a text or an input file, not both");
  const std::string text =
      !options.text.empty() ? options.text : read_text(options.input.empty() ? "-" : options.input);
  std::vector<int32_t> ids;
  Encoder(tokenizer).encode(text, options.special_tokens ? SpecialTokens::parse : SpecialTokens::ignore, ids);
  if (options.prompt) tokenizer.begin_prompt(ids);
  if (options.json)
    print(fmt::format("{{\"ids\": [{}], \"count\": {}, \"bytes\": {}}}\n", fmt::join(ids, ", "), ids.size(),
                      text.size()));
  else
    print(fmt::format("{}\n", fmt::join(ids, " ")));
  return 0;
}

int run_tokenizer_decode(const TokenizerDecodeOptions& options) {
  const Tokenizer tokenizer = Tokenizer::read(chosen_path(options.choice));
  std::string text;
  for (const int64_t id : options.ids.empty() ? read_ids() : options.ids) {
    if (id < 0 || id >= tokenizer.vocabulary_size())
      fail("token id {} is outside the vocabulary of {}", id, tokenizer.vocabulary_size());
    const auto token = static_cast<int32_t>(id);
    if (!(options.skip_special && tokenizer.is_special(token))) text += tokenizer.token_bytes(token);
  }
  print(options.json ? fmt::format("{{\"text\": {}}}\n", json_quote(replace_invalid_utf8(text))) : text);
  return 0;
}

}  // namespace moray
