// What comes out of training is of use: eval, generate, the moving average, a start from given weights; and
// what happens when the numbers run away.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/utf8.h"
#include "checkpoint/checkpoint.h"
#include "report/metrics.h"
#include "workshop.h"

namespace moray::test {
namespace {

double number_of(const std::string& out, const std::string& key) {
  return std::strtod(json_value(out, key).c_str(), nullptr);
}

Outcome eval(const fs::path& model, std::vector<std::string> more = {}) {
  more.insert(more.begin(), {"eval", "--model", model, "--data", Workshop::get().dataset(),
                             "--sequence-length", std::to_string(kSequence), "--json"});
  const Outcome outcome = moray(more);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  return outcome;
}

TEST(Eval, BitsPerByteFollowFromTheLoss) {
  const std::string out = eval(Workshop::get().trained()).out;
  const double nats = number_of(out, "loss") * number_of(out, "tokens");
  EXPECT_NEAR(number_of(out, "bits_per_byte"), nats / std::log(2.0) / number_of(out, "bytes"), 1e-12);
  EXPECT_NEAR(number_of(out, "perplexity"), std::exp(number_of(out, "loss")), 1e-9);
  EXPECT_EQ(number_of(out, "bytes"),
            static_cast<double>(fs::file_size(Workshop::get().dataset() / "held_out.txt")));
  EXPECT_LT(number_of(out, "loss"), std::log(400.0)) << "no better than chance";
}

TEST(Eval, GivesTheTrainersValidationLoss) {
  const ScratchFolder scratch;
  const Outcome run = moray(Workshop::get().train(scratch / "run", {"run.validation_tokens=1000000000"}));
  EXPECT_EQ(json_value(run.out, "validation_loss"), json_value(eval(scratch / "run").out, "loss"));
  EXPECT_EQ(eval(scratch / "run").out, eval(scratch / "run", {"--threads", "3"}).out);
}

TEST(Eval, OfTheMovingAverageIsAnotherModel) {
  const fs::path& run = Workshop::get().trained();
  const double last = number_of(eval(run).out, "loss"),
               average = number_of(eval(run, {"--weights", "ema"}).out, "loss");
  EXPECT_NE(last, average);
  EXPECT_LT(average, std::log(400.0) + 0.1);
  const ScratchFolder scratch;
  ASSERT_EQ(moray(Workshop::get().train(scratch / "run", {"train.ema_decay=0"})).status, 0);
  expect_refusal(
      moray({"eval", "--model", scratch / "run", "--data", Workshop::get().dataset(), "--weights", "ema"}),
      {"moving average", "ema_decay"});
}

TEST(Eval, ANarrowModelIsNearTheWideOne) {
  const ScratchFolder scratch;
  const double wide = number_of(eval(Workshop::get().trained()).out, "loss");
  const std::string trained = weights_of(Workshop::get().trained()).at("model/model.safetensors");
  for (const char* dtype : {"bf16", "fp8"}) {
    const fs::path run = scratch / dtype;
    ASSERT_EQ(moray(Workshop::get().train(run, {std::string("run.model_dtype=") + dtype})).status, 0);
    const double narrow = number_of(eval(run).out, "loss");
    EXPECT_NE(wide, narrow) << dtype;
    EXPECT_NEAR(wide, narrow, 0.01) << dtype;
    // The form of model/ changes nothing in training.
    EXPECT_EQ(weights_of(run).at("state/master.safetensors"), trained) << dtype;
  }
}

Outcome generate(std::vector<std::string> more) {
  more.insert(more.begin(), {"generate", "--model", Workshop::get().trained(), "--max-tokens", "20"});
  const Outcome outcome = moray(more);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(valid_utf8_prefix(outcome.out), outcome.out.size()) << outcome.out;
  return outcome;
}

TEST(Generate, IsAFunctionOfTheSeed) {
  const std::string text = generate({"--prompt", "moray ", "--seed", "3"}).out;
  EXPECT_TRUE(text.starts_with("moray ")) << text;
  EXPECT_EQ(generate({"--prompt", "moray ", "--seed", "3", "--threads", "1"}).out, text);
  EXPECT_EQ(generate({"--prompt", "moray ", "--seed", "3", "--threads", "4"}).out, text);
  EXPECT_NE(generate({"--prompt", "moray ", "--seed", "4"}).out, text);
  EXPECT_NE(generate({"--prompt", "moray ", "--seed", "3", "--weights", "ema", "--temperature", "2"}).out,
            text);
  EXPECT_EQ(generate({"--prompt", "ka", "--temperature", "0", "--seed", "1"}).out,
            generate({"--prompt", "ka", "--temperature", "0", "--seed", "2"}).out);
}

TEST(Generate, ContinuesTheTextOfAFile) {
  const ScratchFolder scratch;
  write_file_atomically(scratch / "text", "moray ");
  const std::string text = generate({"--prompt", "moray "}).out;
  EXPECT_EQ(generate({"--prompt-file", scratch / "text"}).out, text);
  const std::vector<std::string> from_input = {
      "generate", "--model", Workshop::get().trained(), "--max-tokens", "20", "--prompt-file", "-"};
  EXPECT_EQ(moray(Invocation{.arguments = from_input, .input = "moray "}).out, text);
  expect_refusal(moray({"generate", "--model", Workshop::get().trained(), "--prompt-file", scratch / "none"}),
                 {"none"});
}

TEST(Generate, IsValidUtf8AtAnyTemperature) {
  for (const char* seed : {"1", "2", "3"}) {
    const std::string text =
        generate({"--prompt", "\xc3\xa9", "--temperature", "50", "--top-p", "1", "--seed", seed}).out;
    const std::string json =
        generate({"--prompt", "\xc3\xa9", "--temperature", "50", "--top-p", "1", "--seed", seed, "--json"})
            .out;
    EXPECT_EQ(lines_of(json).size(), 1u);
    EXPECT_EQ(json_value(json, "completion_tokens"), "20");
    EXPECT_GT(text.size(), 20u);
  }
}

// Log probabilities are over all rows of the head; of a prompt they are those that eval sums.
TEST(Generate, TellsLogProbabilities) {
  const std::string model = Workshop::get().trained();
  const ScratchFolder scratch;
  write_file_atomically(scratch / "text", "the moray hides");
  const auto generated = nlohmann::json::parse(
      moray({"generate", "--model", model, "--prompt", "the moray hides", "--max-tokens", "4",
             "--temperature", "0", "--json", "--prompt-logprobs", "--logprobs", "2"})
          .out);
  const auto evaluated =
      nlohmann::json::parse(moray({"eval", "--model", model, "--text", scratch / "text", "--json"}).out);
  const auto& prompt = generated["prompt_logprobs"];
  ASSERT_EQ(prompt.size(), generated["prompt_tokens"].get<size_t>());
  EXPECT_TRUE(prompt[0]["logprob"].is_null());
  double nats = 0;
  std::string text;
  for (size_t i = 1; i < prompt.size(); ++i) {
    nats -= prompt[i]["logprob"].get<double>();
    text += prompt[i]["token"].get<std::string>();
  }
  EXPECT_EQ(text, "the moray hides");
  EXPECT_NEAR(nats, evaluated["loss"].get<double>() * static_cast<double>(prompt.size() - 1), 1e-5);
  const auto& answer = generated["logprobs"];
  ASSERT_EQ(answer.size(), 4u);
  for (const auto& token : answer) {
    EXPECT_EQ(token["top"].size(), 2u);
    EXPECT_EQ(token["top"][0]["id"], token["id"]) << "the likeliest at temperature 0";
  }
  // A token that ends the answer is not in it.
  const std::string third = std::to_string(answer[2]["id"].get<int>());
  const auto stopped = nlohmann::json::parse(
      moray({"generate", "--model", model, "--prompt", "the moray hides", "--max-tokens", "4",
             "--temperature", "0", "--json", "--stop-token", third})
          .out);
  EXPECT_EQ(stopped["finish_reason"], "stop");
  EXPECT_LE(stopped["completion_tokens"].get<int>(), 2);
}

TEST(Generate, FillsInBetween) {
  const std::string text = generate({"--prefix", "mo", "--suffix", "ray", "--seed", "1"}).out;
  EXPECT_TRUE(text.starts_with("mo") && text.ends_with("ray")) << text;
}

Invocation from(Invocation train, const fs::path& model) {
  train.arguments.insert(train.arguments.end(), {"--init", model});
  return train;
}

TEST(Init, StartsFromGivenWeights) {
  const Workshop& workshop = Workshop::get();
  const ScratchFolder scratch;
  const fs::path model = *latest_checkpoint(workshop.trained() / "checkpoints") / "model";
  const Outcome outcome = moray(
      from(workshop.train(scratch / "run", {"train.learning_rate=0", "train.balance_bias_update_speed=0"}),
           model));
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(weights_of(scratch / "run").at("model/model.safetensors"),
            read_file(model / "model.safetensors"));
  const double fresh = read_metrics(workshop.trained() / "metrics.jsonl").front().loss;
  EXPECT_LT(read_metrics(scratch / "run" / "metrics.jsonl").front().loss, fresh - 0.05);
}

TEST(NotFinite, StepsChangeNothingAndEndTheRun) {
  const ScratchFolder scratch;
  const fs::path run = scratch / "run";
  const Outcome outcome =
      moray(Workshop::get().train(run, {"train.learning_rate=1e38", "train.max_bad_steps=3",
                                        "run.checkpoint_interval_steps=1", "run.keep_last=100"}));
  expect_refusal(outcome, {"not finite", "3 steps in a row"}, true);
  const std::vector<StepMetrics> rows = read_metrics(run / "metrics.jsonl");
  const std::vector<fs::path> checkpoints = list_checkpoints(run / "checkpoints");
  ASSERT_EQ(rows.size(), checkpoints.size() + 1)
      << "the step that ended the run has a row, but no checkpoint";
  std::vector<size_t> skipped;
  for (size_t i = 1; i < rows.size(); ++i)
    if (rows[i].skipped_steps > rows[i - 1].skipped_steps) skipped.push_back(i);
  ASSERT_EQ(skipped.size(), 3u);
  skipped.pop_back();  // ended the run
  for (size_t i : skipped)
    for (const auto& [name, bytes] : content_of(checkpoints[i]))
      if (name.ends_with(".safetensors")) {
        EXPECT_TRUE(bytes == read_file(checkpoints[i - 1] / name)) << name;
      }
  EXPECT_NE(outcome.err.find("warning: step"), std::string::npos) << outcome.err;
}

TEST(NotFinite, WeightsFromOutsideAreNoticed) {
  const Workshop& workshop = Workshop::get();
  const ScratchFolder scratch;
  copy_folder(*latest_checkpoint(workshop.trained() / "checkpoints") / "model", scratch / "model");
  std::string bytes = read_file(scratch / "model" / "model.safetensors");
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (size_t at = bytes.size() / 2 / 4 * 4; at < bytes.size() / 2 + 4096; at += 4)
    bytes.replace(at, 4, reinterpret_cast<const char*>(&nan), 4);
  write_file_atomically(scratch / "model" / "model.safetensors", bytes);
  expect_refusal(moray(from(workshop.train(scratch / "run"), scratch / "model")), {"not finite", "in a row"},
                 true);
  EXPECT_EQ(read_metrics(scratch / "run" / "metrics.jsonl").back().skipped_steps, 5);
  EXPECT_TRUE(list_checkpoints(scratch / "run" / "checkpoints").empty()) << "nothing worth keeping";
  expect_refusal(moray({"generate", "--model", scratch / "model", "--max-tokens", "3"}), {"not finite"});
}

TEST(LongMemory, DoesNotGrowOverAThousandSteps) {
  const ScratchFolder scratch;
  const std::string tokens = "train.tokens=" + std::to_string(1000 * kBatch * kSequence);
  Invocation train = Workshop::get().train(
      scratch / "run", {tokens, "train.learning_rate=3e-3", "run.checkpoint_interval_steps=50"});
  // AddressSanitizer keeps 256 MB of what was freed; that is not growth.
  train.environment.emplace_back("ASAN_OPTIONS", "quarantine_size_mb=1");
  const Outcome outcome = moray(train);
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const std::vector<StepMetrics> rows = read_metrics(scratch / "run" / "metrics.jsonl");
  ASSERT_EQ(rows.size(), 1000u);
  constexpr int64_t kSlackBytes = 512 << 10;  // of a process of 20 MB
  EXPECT_LE(rows[999].peak_memory_bytes, rows[99].peak_memory_bytes * 101 / 100 + kSlackBytes);
}

}  // namespace
}  // namespace moray::test
