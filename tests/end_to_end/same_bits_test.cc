// The same recipe gives the same bits on any number of threads, any micro-batch, any instruction set, any
// locale; the same model, prompt and seed the same tokens on any threads, chunks and instruction set.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "workshop.h"

namespace moray::test {
namespace {

constexpr const char* kNoAvx512 = "this machine has no AVX-512; with AVX2 the test was run";

bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512cd");
}

struct Bits {
  std::string loss_bits;
  std::map<std::string, std::string> weights;
  std::vector<std::string> metrics;
};

Bits bits_of(Invocation invocation, const ScratchFolder& scratch) {
  static int count = 0;
  const fs::path run = scratch / std::to_string(count++);
  for (std::string& argument : invocation.arguments)
    if (argument == "RUN") argument = run;
  const Outcome outcome = moray(invocation);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  if (outcome.status != 0) return {};
  return {json_value(outcome.out, "loss_bits"), weights_of(run), metrics_of(run)};
}

void expect_same(const Bits& got, const Bits& expected, const std::string& what) {
  EXPECT_EQ(got.loss_bits, expected.loss_bits) << what;
  EXPECT_TRUE(got.weights == expected.weights) << what << ": weights, moments or average differ";
  EXPECT_EQ(got.metrics, expected.metrics) << what;
}

using Settings = std::vector<std::string>;

class SameBits : public testing::TestWithParam<Settings> {
 protected:
  Invocation train(const Settings& more) const {
    Settings settings = GetParam();
    settings.insert(settings.end(), more.begin(), more.end());
    return Workshop::get().train("RUN", settings);
  }
  // Of the recipe as it is, on the machine's own threads and instruction set.
  const Bits& expected() {
    static std::map<Settings, Bits> known;
    const auto [place, is_new] = known.try_emplace(GetParam());
    if (is_new) place->second = bits_of(train({}), scratch_);
    return place->second;
  }
  ScratchFolder scratch_;
};

TEST_P(SameBits, OnAnyNumberOfThreads) {
  for (const char* threads : {"1", "2", "4"}) {
    Invocation invocation = train({});
    invocation.arguments.insert(invocation.arguments.end(), {"--threads", threads});
    expect_same(bits_of(invocation, scratch_), expected(), std::string("threads ") + threads);
  }
}

TEST_P(SameBits, ForAnyMicroBatch) {
  for (const char* size : {"1", "2", "3", "8"})
    expect_same(bits_of(train({std::string("train.micro_batch=") + size}), scratch_), expected(),
                std::string("micro-batch ") + size);
}

TEST_P(SameBits, OnAnyInstructionSet) {
  for (const char* set : {"avx2", "avx512"}) {
    if (set == std::string("avx512") && !has_avx512()) GTEST_SKIP() << kNoAvx512;
    Invocation invocation = train({});
    invocation.environment = {{"MORAY_SIMD", set}};
    expect_same(bits_of(invocation, scratch_), expected(), set);
  }
}

TEST_P(SameBits, InAnyLocale) {
  for (const char* locale : {"de_DE.UTF-8", "no such locale"}) {
    Invocation invocation = train({});
    invocation.environment = {{"LC_ALL", locale}, {"LANG", locale}};
    expect_same(bits_of(invocation, scratch_), expected(), locale);
  }
}

TEST_P(SameBits, ChangeWithTheSeed) {  // that the tests above can fail
  const Bits &a = expected(), b = bits_of(train({"train.seed=2"}), scratch_);
  EXPECT_NE(a.loss_bits, b.loss_bits);
  EXPECT_FALSE(a.weights == b.weights);
  EXPECT_NE(a.metrics, b.metrics);
}

const Settings kNarrow = {"run.model_dtype=bf16", "train.adamw.moments=bf16"};
// Sequences and widths beyond one block of 128.
const Settings kGroups = {"train.gradient_groups=4", "train.isolate_documents=true",
                          "train.sequence_length=150", "model.hidden_size=144",
                          "model.max_position_embeddings=160"};
const Settings kV2 = {"model.scoring_func=softmax", "model.norm_topk_prob=false",
                      "model.q_lora_rank=0",        "model.num_nextn_predict_layers=2",
                      "train.batch_size=7",         "train.gradient_groups=3"};

std::string name_of(const testing::TestParamInfo<Settings>& info) {
  constexpr const char* kNames[] = {"plain", "bf16", "groups", "v2"};
  return kNames[info.index];
}

INSTANTIATE_TEST_SUITE_P(Recipes, SameBits, testing::Values(Settings{}, kNarrow, kGroups, kV2), name_of);

// On random weights: sums of more than two blocks of 128, weights in panels and in rows, rows of 4 bits.
class GeneratedBits : public testing::TestWithParam<const char*> {
 protected:
  GeneratedBits() : model_(scratch_ / "model") {
    std::vector<std::string> make = {"bench", "make-model", Workshop::get().recipe(),
                                     model_,  "--format",   GetParam()};
    for (const char* setting :
         {"hidden_size=288", "intermediate_size=160", "moe_intermediate_size=72", "num_hidden_layers=3",
          "q_lora_rank=96", "kv_lora_rank=160", "qk_nope_head_dim=32", "qk_rope_head_dim=16", "v_head_dim=32",
          "num_attention_heads=3", "max_position_embeddings=512", "num_nextn_predict_layers=0"})
      make.insert(make.end(), {"--set", std::string("model.") + setting});
    const Outcome made = moray(make);
    EXPECT_EQ(made.status, 0) << made.err;
    fs::copy_file(Workshop::get().tokenizer() / "tokenizer.json", model_ / "tokenizer.json");
    for (const char* file : {"000.txt", "001.txt", "002.txt", "003.txt"})
      prompt_ += read_file(Workshop::get().corpus() / file);
    prompt_.resize(std::min<size_t>(prompt_.size(), 1800));
    prompt_.resize(prompt_.rfind(' '));
  }
  // Tokens and log probabilities, and all else but times; empty after a failure.
  nlohmann::json generate(const std::string& simd, std::vector<std::string> more) const {
    more.insert(more.begin(), {"generate", "--model", model_, "--prompt", prompt_, "--max-tokens", "20",
                               "--ignore-end", "--json", "--logprobs", "5"});
    const Outcome outcome = moray(Invocation{.arguments = more, .environment = {{"MORAY_SIMD", simd}}});
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    if (outcome.status != 0) return {};
    nlohmann::json json = nlohmann::json::parse(outcome.out);
    json.erase("prompt_seconds");
    json.erase("seconds");
    return json;
  }
  ScratchFolder scratch_;
  fs::path model_;
  std::string prompt_;
};

TEST_P(GeneratedBits, OnAnyThreadsChunksAndInstructionSet) {
  const nlohmann::json expected = generate("avx2", {});
  EXPECT_GT(expected["prompt_tokens"], 256);
  EXPECT_EQ(expected["logprobs"].size(), 20u);
  EXPECT_NE(generate("avx2", {"--seed", "1"})["logprobs"], expected["logprobs"]) << "the test can fail";
  for (const char* simd : {"avx2", "avx512"}) {
    if (simd == std::string("avx512") && !has_avx512()) GTEST_SKIP() << kNoAvx512;
    constexpr std::pair<const char*, const char*> kLayouts[] = {{"1", "512"}, {"2", "19"}, {"3", "128"}};
    for (const auto& [threads, chunk] : kLayouts)
      EXPECT_EQ(generate(simd, {"--threads", threads, "--chunk", chunk}), expected)
          << simd << ", " << threads << " threads, chunks of " << chunk;
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, GeneratedBits, testing::Values("bf16", "fp8", "8bit", "4bit"),
                         [](const auto& format) { return "of_" + std::string(format.param); });

}  // namespace
}  // namespace moray::test
