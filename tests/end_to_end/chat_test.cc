// moray chat as a person at a terminal meets it.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint.h"
#include "terminal.h"
#include "workshop.h"

namespace moray::test {
namespace {

constexpr const char* kCtrlC = "\x03";
constexpr const char* kCtrlD = "\x04";
constexpr const char* kEnter = "\r";

// The trained model with room for long conversations; answers at temperature 0 ramble on.
class ChatModel {
 public:
  explicit ChatModel(int64_t positions = 200000) {
    copy_folder(*latest_checkpoint(Workshop::get().trained() / "checkpoints") / "model", scratch_ / "model");
    nlohmann::json config = nlohmann::json::parse(read_file(scratch_ / "model" / "config.json"));
    config["max_position_embeddings"] = positions;
    write_file_atomically(scratch_ / "model" / "config.json", config.dump());
  }
  std::vector<std::string> chat(std::vector<std::string> more = {}) const {
    more.insert(more.begin(),
                {"chat", "--model", scratch_ / "model", "--temperature", "0", "--threads", "1"});
    if (std::ranges::find(more, "--chat-template") == more.end())
      more.insert(more.end(), {"--chat-template", "v3"});
    return more;
  }

  std::string folder() const { return scratch_ / "model"; }

 private:
  ScratchFolder scratch_;
};

// "[prompt N tokens": how many were computed.
int64_t computed(const std::string& screen) {
  const std::string before = "[prompt ";
  const size_t at = screen.rfind(before);
  EXPECT_NE(at, std::string::npos) << screen;
  return at == std::string::npos ? -1 : std::strtoll(screen.c_str() + at + before.size(), nullptr, 10);
}

void say(Terminal& terminal, const std::string& message) {
  terminal.type(message + kEnter);
}
void leave(Terminal& terminal) {
  terminal.type(kCtrlD);
  EXPECT_EQ(terminal.wait(), 0);
}

TEST(Chat, StreamsAndCtrlCStopsTheAnswer) {
  const ChatModel model;
  Terminal terminal(model.chat({"--max-tokens", "100000"}));
  terminal.read_until("> ");
  say(terminal, "moray ka");
  terminal.read_until("moray ka");  // the terminal's echo
  terminal.read_until("a");         // something of the answer is there long before its end
  terminal.type(kCtrlC);
  const std::string screen = terminal.read_until(", stopped]");
  EXPECT_GT(computed(screen), 1);
  terminal.read_until("> ");
  // The conversation goes on.
  say(terminal, "ne");
  terminal.read_until("ne\r\n");
  terminal.read_until("a");
  terminal.type(kCtrlC);
  terminal.read_until(", stopped]");
  terminal.read_until("> ");
  leave(terminal);
}

TEST(Chat, CtrlCAtThePromptAsksAgain) {
  const ChatModel model;
  Terminal terminal(model.chat({"--max-tokens", "3"}));
  terminal.read_until("> ");
  for (int time = 0; time < 2; ++time) {
    terminal.type("never sent");
    terminal.read_until("never sent");
    terminal.type(kCtrlC);
    terminal.read_until("> ");
  }
  say(terminal, "moray");
  terminal.read_until("cut at --max-tokens]");
  leave(terminal);
}

TEST(Chat, TurnsReuseTheCache) {
  const ChatModel model;
  std::string system;
  for (int i = 0; i < 100; ++i) system += "moray ne ka lu ";
  Terminal terminal(model.chat({"--max-tokens", "3", "--system", system}));
  terminal.read_until("> ");
  say(terminal, "moray");
  const int64_t first = computed(terminal.read_until("cut at --max-tokens]"));
  EXPECT_GT(first, 100);
  say(terminal, "moray");
  const int64_t second = computed(terminal.read_until("cut at --max-tokens]"));
  EXPECT_LT(second, 40) << "the last answer and the new message";
  // The same question in a new conversation: nothing but its last token is computed.
  say(terminal, "/new");
  say(terminal, "moray");
  EXPECT_EQ(computed(terminal.read_until("cut at --max-tokens]")), 1);
  leave(terminal);
}

TEST(Chat, ReasoningIsShownApart) {
  const ChatModel model;
  Terminal terminal(model.chat({"--max-tokens", "5", "--chat-template", "v3.1", "--thinking", "on"}));
  terminal.read_until("> ");
  say(terminal, "moray");
  const std::string screen = terminal.read_until("cut at --max-tokens]");
  const size_t begin = screen.find("\033[2m"), end = screen.find("\033[0m");
  ASSERT_NE(begin, std::string::npos) << screen;
  EXPECT_GT(end, begin + 4) << screen;
  EXPECT_EQ(screen.find("<think>"), std::string::npos) << screen;
  say(terminal, "/think off");
  say(terminal, "moray");
  EXPECT_EQ(terminal.read_until("cut at --max-tokens]").find("\033[2m"), std::string::npos);
  leave(terminal);
}

TEST(Chat, StopStringsEndAnAnswerAndAreNoInterrupt) {
  const ChatModel model;
  const auto answer = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments = model.chat({"--message", "moray", "--json", "--max-tokens", "20"});
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Outcome outcome = moray(arguments);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    return nlohmann::json::parse(outcome.out);
  };
  const std::string whole = answer({})["content"];
  ASSERT_GT(whole.size(), 6u);
  const auto cut = answer({"--stop", whole.substr(3, 2)});
  EXPECT_TRUE(whole.starts_with(cut["content"].get<std::string>()));
  EXPECT_LT(cut["content"].get<std::string>().size(), 4u);
  EXPECT_EQ(cut["finish_reason"], "stop");
  EXPECT_EQ(moray(model.chat({"--message", "", "--max-tokens", "1"})).status, 0) << "an empty message is one";
}

TEST(Chat, AnswersTheTextOfAFile) {
  const ChatModel model;
  const auto answer = [&](std::vector<std::string> message, const std::string& input) {
    message.insert(message.end(), {"--max-tokens", "20", "--temperature", "0"});
    return moray(Invocation{.arguments = model.chat(message), .input = input}).out;
  };
  EXPECT_EQ(answer({"--message-file", "-"}, "moray\nray"), answer({"--message", "moray\nray"}, ""));
}

TEST(Chat, AFullContextIsToldAndSurvived) {
  const ChatModel model;
  Terminal terminal(model.chat({"--max-tokens", "5", "--context", "40"}));
  terminal.read_until("> ");
  say(terminal, std::string(60, 'k'));
  terminal.read_until("fills the context of 40; /new begins another");
  terminal.read_until("> ");
  say(terminal, "/new");
  say(terminal, "ka");
  terminal.read_until("cut at --max-tokens]");
  terminal.read_until("> ");
  leave(terminal);
}

TEST(Chat, LongPromptsShowProgressAndCtrlCStopsThem) {
  const ChatModel model;
  std::string system;
  while (system.size() < 100000) system += "moray ne ka lu ";
  Terminal terminal(model.chat({"--chunk", "4", "--system", system}));
  terminal.read_until("> ");
  say(terminal, "moray");
  const std::string screen = terminal.read_until(" tokens/s");
  EXPECT_NE(screen.find("prompt "), std::string::npos) << screen;
  const double start = seconds_now();
  terminal.type(kCtrlC);
  terminal.read_until(", stopped]");
  EXPECT_LT(seconds_now() - start, 5);
  terminal.read_until("> ");
  leave(terminal);
}

TEST(Generate, CtrlCEndsIt) {
  const ChatModel model;
  Terminal terminal({"generate", "--model", model.folder(), "--prompt", "moray", "--max-tokens", "100000",
                     "--ignore-end", "--threads", "1"});
  terminal.read_until("moray");
  terminal.read_until("a");
  terminal.type(kCtrlC);
  EXPECT_EQ(terminal.wait(), 130);
}

// A model can be made to say anything.
TEST(Generate, SteersNoTerminal) {
  const ChatModel model;
  const std::string prompt =
      "one\x1b]0;title\x07\ttwo\r\nthree\xc2\x9b"
      "31m";
  const std::vector<std::string> generate = {"generate",     "--model", model.folder(), "--prompt", prompt,
                                             "--max-tokens", "1",       "--threads",    "1"};
  Terminal terminal(generate);
  const std::string screen = terminal.read_until("31m");
  EXPECT_EQ(terminal.wait(), 0);
  EXPECT_TRUE(screen.ends_with("one ]0;title \ttwo \r\nthree 31m")) << screen;
  EXPECT_TRUE(moray(generate).out.starts_with(prompt)) << "a file gets what the model says";
}

}  // namespace
}  // namespace moray::test
