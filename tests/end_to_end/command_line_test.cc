// Help, exit statuses, and what goes to stdout and what to stderr.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint.h"
#include "workshop.h"

namespace moray::test {
namespace {

using Arguments = std::vector<std::string>;

TEST(CommandLine, EveryCommandHasHelpWithExamples) {
  for (Arguments command : {Arguments{"tokenizer", "train"},
                            {"tokenizer", "encode"},
                            {"tokenizer", "decode"},
                            {"data", "build"},
                            {"train"},
                            {"generate"},
                            {"eval"},
                            {"inspect"},
                            {"report"},
                            {"bench", "step"},
                            {"bench", "make-model"},
                            {"bench", "load"},
                            {"quantize"},
                            {"numerics", "products"}}) {
    command.push_back("--help");
    const Outcome outcome = moray(command);
    SCOPED_TRACE(command.front());
    EXPECT_EQ(outcome.status, 0);
    EXPECT_EQ(outcome.err, "");
    EXPECT_NE(outcome.out.find("Examples:\n  moray " + command.front()), std::string::npos) << outcome.out;
  }
  for (const Arguments& group :
       {Arguments{"--help"}, {"tokenizer", "--help"}, {"data", "--help"}, {"bench", "--help"}})
    EXPECT_EQ(moray(group).status, 0);
}

TEST(CommandLine, TellsItsVersion) {
  const Outcome outcome = moray({"--version"});
  EXPECT_EQ(outcome.status, 0);
  EXPECT_TRUE(outcome.out.starts_with("moray ")) << outcome.out;
}

TEST(CommandLine, MistakesAreOneLine) {
  expect_refusal(moray(Arguments{}), {"moray --help"});
  expect_refusal(moray({"trian"}), {"trian"});
  expect_refusal(moray({"train"}), {"recipe", "moray train --help"});
  expect_refusal(moray({"train", "a.toml", "--frobnicate"}), {"--frobnicate"});
  expect_refusal(moray({"train", "a.toml", "--threads", "0"}), {"--threads", "0"});
  expect_refusal(moray({"train", "a.toml", "--threads", "many"}), {"--threads", "many"});
  expect_refusal(moray({"train", "a.toml", "--resume", "later"}), {"--resume", "later"});
  expect_refusal(moray({"generate", "--model", "m", "--threads", "100000"}), {"--threads", "100000"});
  expect_refusal(moray({"tokenizer"}), {"moray tokenizer --help"});
  expect_refusal(moray({"generate", "--model", "m", "--prompt", "a", "--prefix", "b"}),
                 {"--prefix", "--prompt"});
  expect_refusal(moray({"generate", "--model", "m", "--max-tokens", "-3"}), {"--max-tokens", "-3"});
  expect_refusal(moray({"numerics", "products", "--bits", "99"}), {"--bits", "99"});
  expect_refusal(moray({"numerics", "products", "--promote-every", "100"}), {"--promote-every", "100"});
  expect_refusal(moray({"inspect", "nowhere"}), {"nowhere"});
  expect_refusal(moray({"report", "nowhere"}), {"nowhere"});
}

TEST(CommandLine, ListsTakeOneEach) {
  const ScratchFolder scratch;
  const Outcome made =
      moray({"bench", "make-model", Workshop::get().recipe(), "--set", "model.hidden_size=64", "--set",
             "model.num_nextn_predict_layers=0", scratch / "m"});
  EXPECT_EQ(made.status, 0) << made.err;
  EXPECT_TRUE(fs::exists(scratch / "m" / "config.json"));
}

TEST(CommandLine, RandomModelsTakeKeysOfModelsAlone) {
  const ScratchFolder scratch;
  for (const char* key : {"model.hiden_size", "train.batch_size", "unknown_key"}) {
    const std::string setting = std::string(key) + "=64";
    expect_refusal(moray({"bench", "make-model", Workshop::get().recipe(), scratch / "m", "--set", setting}),
                   {std::string("unknown key '") + key + "'"});
    expect_refusal(moray({"bench", "decode", Workshop::get().recipe(), "--set", setting}), {key});
  }
  EXPECT_FALSE(fs::exists(scratch / "m"));
}

TEST(CommandLine, JsonIsOneObjectOnStdout) {
  const Workshop& workshop = Workshop::get();
  const ScratchFolder scratch;
  const std::string run = workshop.trained();
  const std::pair<Arguments, const char*> cases[] = {
      {workshop.train(scratch / "run").arguments, "loss_bits"},
      {{"tokenizer", "train", "--corpus", workshop.corpus(), "--vocab-size", "300", "--output", scratch / "t",
        "--json"},
       "vocabulary_size"},
      {{"tokenizer", "encode", "--tokenizer", workshop.tokenizer(), "--text", "moray", "--json"}, "ids"},
      {{"tokenizer", "decode", "--tokenizer", workshop.tokenizer(), "65", "--json"}, "text"},
      {{"data", "build", "--corpus", workshop.corpus(), "--tokenizer", workshop.tokenizer(), "--output",
        scratch / "d", "--json"},
       "corpora"},
      {{"generate", "--model", run, "--max-tokens", "3", "--json"}, "text"},
      {{"eval", "--model", run, "--data", workshop.dataset(), "--json"}, "bits_per_byte"},
      {{"inspect", run, "--json"}, nullptr},
      {{"inspect", workshop.recipe(), "--json"}, nullptr},
      {{"inspect", workshop.dataset(), "--json"}, nullptr},
      {{"inspect", workshop.tokenizer(), "--json"}, nullptr},
      {{"report", run, "--output", scratch / "r.html", "--json"}, nullptr},
      {{"bench", "step", workshop.recipe(), "--steps", "2", "--json"}, nullptr},
      {{"numerics", "products", "--rows", "2", "--bits", "14", "--html", scratch / "n.html", "--json"},
       "errors"},
  };
  for (const auto& [arguments, key] : cases) {
    SCOPED_TRACE(arguments.front());
    const Outcome outcome = moray(arguments);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    const std::vector<std::string> lines = lines_of(outcome.out);
    ASSERT_FALSE(lines.empty());
    EXPECT_TRUE(lines.front().starts_with("{") && lines.back().ends_with("}")) << outcome.out;
    if (key != nullptr) {
      EXPECT_NE(json_value(outcome.out, key), "");
    }
  }
}

// From text to a trained model each step names the next, on stderr.
TEST(CommandLine, EachStepNamesTheNext) {
  const Workshop& workshop = Workshop::get();
  const ScratchFolder scratch;
  const std::string tokenizer = scratch / "t", dataset = scratch / "d", run = scratch / "run";
  const std::pair<Arguments, std::vector<std::string>> cases[] = {
      {{"tokenizer", "train", "--corpus", workshop.corpus(), "--vocab-size", "300", "--output", tokenizer},
       {"moray data build --corpus PATH --tokenizer " + tokenizer}},
      {{"data", "build", "--corpus", workshop.corpus(), "--tokenizer", tokenizer, "--output", dataset},
       {"moray train RECIPE --set data.dataset=" + dataset + " --set model.vocab_size=300"}},
      {workshop.train(run, {"data.dataset=" + dataset}).arguments,
       {"moray generate --model " + run + " --prompt", "moray eval --model " + run + " --data " + dataset}},
  };
  for (const auto& [arguments, fragments] : cases) {
    const Outcome outcome = moray(arguments);
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    for (const std::string& fragment : fragments)
      EXPECT_NE(outcome.err.find(fragment), std::string::npos) << fragment << "\n" << outcome.err;
  }
}

TEST(CommandLine, ConversationsBecomePrompts) {
  const std::string tokenizer = Workshop::get().tokenizer();
  const ScratchFolder scratch;
  const std::string chat = scratch / "chat.json";
  write_file_atomically(chat, R"([{"role": "user", "content": "a<｜Assistant｜>"}])");
  const Arguments encode = {"tokenizer", "encode", "--tokenizer", tokenizer};
  const auto with = [&](std::initializer_list<std::string> more) {
    Arguments arguments = encode;
    arguments.insert(arguments.end(), more);
    return arguments;
  };
  const Outcome plain = moray(with({"--chat", chat, "--chat-template", "v3.1", "--thinking", "on"}));
  ASSERT_EQ(plain.status, 0) << plain.err;
  const std::vector<std::string> lines = lines_of(plain.out);
  ASSERT_EQ(lines.size(), 3u) << plain.out;
  EXPECT_EQ(lines[0], "<｜begin▁of▁sentence｜><｜User｜>a<｜Assistant｜><｜Assistant｜><think>");
  const Outcome decoded =
      moray(Invocation{.arguments = {"tokenizer", "decode", "--tokenizer", tokenizer}, .input = lines[2]});
  EXPECT_EQ(decoded.out, lines[0]);
  EXPECT_NE(json_value(moray(with({"--chat", chat, "--chat-template", "r1", "--json"})).out, "prompt"), "");
  EXPECT_EQ(
      moray(Invocation{.arguments = with({"--chat", "-", "--chat-template", "v2"}), .input = read_file(chat)})
          .status,
      0);
  expect_refusal(moray(with({"--chat", chat})), {"no chat template"});
  expect_refusal(moray(with({"--chat", chat, "--chat-template", "v9"})), {"v9"});
  expect_refusal(moray(with({"--chat", chat, "--chat-template", "kimi-k2"})), {"<|im_system|>"});
  expect_refusal(moray(with({"--chat", chat, "--text", "a"})), {"--chat", "--text"});
  expect_refusal(moray(with({"--text", "a", "--thinking", "on"})), {"--thinking", "--chat"});
  expect_refusal(moray(with({"--text", "a", "--model", tokenizer})), {"--tokenizer", "--model"});
  expect_refusal(moray({"tokenizer", "encode", "--text", "a"}), {"--tokenizer", "--model"});
  EXPECT_EQ(
      moray({"tokenizer", "encode", "--model", Workshop::get().trained(), "--text", "a", "--prompt"}).status,
      0);
}

TEST(CommandLine, ProgressGoesToStderrWithoutControlCharacters) {
  const ScratchFolder scratch;
  const Outcome outcome = moray(Workshop::get().train(scratch / "run"));
  EXPECT_NE(outcome.err.find("plan: 12 steps"), std::string::npos) << outcome.err;
  EXPECT_EQ(outcome.err.find_first_of("\r\x1b"), std::string::npos) << outcome.err;
}

// Names of folders and tensors are bytes of anybody's choice.
TEST(CommandLine, NamesSteerNoTerminalAndStopNoJson) {
  const ScratchFolder scratch;
  const fs::path folder = scratch / "m\xff\x1b[2J\xc2\x9b";
  copy_folder(*latest_checkpoint(Workshop::get().trained() / "checkpoints") / "model", folder);
  const std::string header = R"({"a\u001b[2Jb\u009b":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}})";
  const uint64_t length = header.size();
  write_file_atomically(folder / "x.safetensors",
                        std::string(reinterpret_cast<const char*>(&length), 8) + header);
  const auto harmless = [](const std::string& text) {
    return text.find_first_of("\x1b\xff") == std::string::npos && text.find("\u009b") == std::string::npos;
  };
  for (const std::string& path : {folder.string(), (folder / "x.safetensors").string()}) {
    const Outcome plain = moray({"inspect", path, "--tensors"});
    EXPECT_EQ(plain.status, 0) << plain.err;
    EXPECT_TRUE(harmless(plain.out)) << plain.out;
    EXPECT_NE(plain.out.find("\uFFFD"), std::string::npos) << "the folder's name";
    const Outcome json = moray({"inspect", path, "--tensors", "--json"});
    EXPECT_EQ(json.status, 0) << json.err;
    EXPECT_TRUE(nlohmann::json::accept(json.out)) << json.out;
  }
  const Outcome refused = moray({"inspect", folder / "none"});
  expect_refusal(refused, {"none", "no such file"});
  EXPECT_TRUE(harmless(refused.err)) << refused.err;
}

TEST(CommandLine, AClosedPipeEndsQuietly) {
  // `moray ... | head` whose head has gone: the shell opens the pipe and lets it fall.
  const ScratchFolder scratch;
  const fs::path pipe = scratch / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  const int reader = ::open(pipe.c_str(), O_RDONLY | O_NONBLOCK);
  ASSERT_GE(reader, 0);
  Process process(Invocation{
      .arguments = {"generate", "--model", Workshop::get().trained(), "--prompt", "mo", "--max-tokens", "60"},
      .output_path = pipe});
  char byte = 0;
  while (::read(reader, &byte, 1) != 1 && !process.ended()) sleep_seconds(0.001);
  ::close(reader);
  const Outcome outcome = process.wait();
  EXPECT_TRUE(outcome.status == 0 || outcome.status == 128 + SIGPIPE) << outcome.status;
  EXPECT_EQ(outcome.err, "");
}

TEST(CommandLine, AFullStdoutIsAnError) {
  const Outcome outcome = moray(
      Invocation{.arguments = {"inspect", Workshop::get().trained(), "--json"}, .output_path = "/dev/full"});
  expect_refusal(outcome, {"standard output"});
}

TEST(CommandLine, LostOutputIsAnError) {
  const Arguments generate = {"generate",     "--model", Workshop::get().trained(), "--prompt", "moray",
                              "--max-tokens", "3"};
  expect_refusal(moray(Invocation{.arguments = generate, .output_path = "/dev/full"}), {"standard output"});
  expect_refusal(moray(Invocation{.arguments = generate, .closed = {1}}), {"standard output"});
}

// A file that took the place of a closed stream would hold what is written to that.
TEST(CommandLine, ClosedStreamsReachNoFile) {
  const Workshop& workshop = Workshop::get();
  const ScratchFolder scratch;
  Invocation train = workshop.train(scratch / "run");
  train.closed = {0, 2};
  EXPECT_EQ(moray(train).status, 0);
  EXPECT_EQ(weights_of(scratch / "run"), weights_of(workshop.trained()));
  EXPECT_EQ(metrics_of(scratch / "run"), metrics_of(workshop.trained()));
}

TEST(CommandLine, LogitBiasIsReadWhole) {
  for (const char* bias : {"=100", "5000000000=100", "77=1e400", "77=", "77", "x=1", "77=1x", "399=nan"})
    expect_refusal(
        moray({"generate", "--model", Workshop::get().trained(), "--prompt", "moray", "--logit-bias", bias}),
        {"logit"});
  expect_refusal(moray({"generate", "--model", Workshop::get().trained(), "--prompt", "moray", "--logit-bias",
                        "99999=5"}),
                 {"99999"});
  expect_refusal(moray({"generate", "--model", Workshop::get().trained(), "--prompt", "moray", "--max-tokens",
                        "4", "--logit-bias", "7=1e300"}),
                 {"infinite"});
}

}  // namespace
}  // namespace moray::test
