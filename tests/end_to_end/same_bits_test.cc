// The same recipe gives the same bits on any number of threads, any micro-batch, any instruction set, any
// locale.
#include <gtest/gtest.h>

#include "workshop.h"

namespace moray::test {
namespace {

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
  std::vector<std::string> sets = {"avx2"};
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512cd"))
    sets.push_back("avx512");
  for (const std::string& set : sets) {
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

}  // namespace
}  // namespace moray::test
