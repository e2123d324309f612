#include "serve/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "base/error.h"

namespace moray {
namespace {

const std::vector<float> kLogits = {0.0f, 2.0f, 1.0f, 2.0f, -1.0f};

TEST(Sampler, GreedyTakesTheFirstOfTheBest) {
  EXPECT_EQ(sample_token(kLogits, {.temperature = 0}, 3), 1);
}

TEST(Sampler, IsAFunctionOfSeedAndPosition) {
  for (int64_t position = 0; position < 20; ++position)
    EXPECT_EQ(sample_token(kLogits, {.seed = 5}, position), sample_token(kLogits, {.seed = 5}, position));
}

TEST(Sampler, FrequenciesFollowTheSoftmax) {
  constexpr int kDraws = 20000;
  std::vector<int> counts(kLogits.size());
  for (int i = 0; i < kDraws; ++i)
    ++counts[static_cast<size_t>(sample_token(kLogits, {.temperature = 0.7, .seed = 1}, i))];
  double total = 0;
  for (float logit : kLogits) total += std::exp(logit / 0.7);
  for (size_t v = 0; v < kLogits.size(); ++v)
    EXPECT_NEAR(counts[v] / double{kDraws}, std::exp(kLogits[v] / 0.7) / total, 0.015) << v;
}

TEST(Sampler, TopPKeepsTheSmallestSet) {
  for (int i = 0; i < 2000; ++i) {
    const int32_t token = sample_token(kLogits, {.top_p = 0.7, .seed = 2}, i);
    EXPECT_TRUE(token == 1 || token == 3) << token;  // each has probability 0.37
  }
}

TEST(Sampler, RefusesNonsense) {
  EXPECT_THROW(sample_token(kLogits, {.temperature = -1}, 0), Error);
  EXPECT_THROW(sample_token(kLogits, {.top_p = 0}, 0), Error);
  EXPECT_THROW(sample_token(kLogits, {.top_k = -1}, 0), Error);
  EXPECT_THROW(sample_token(kLogits, {.min_p = 2}, 0), Error);
  EXPECT_THROW(sample_token(kLogits, {.repetition_penalty = 0}, 0), Error);
  const std::vector<float> bad = {0.0f, std::numeric_limits<float>::quiet_NaN()};
  EXPECT_THROW(sample_token(bad, {}, 0), Error);
}

int count_of(const SamplingOptions& options, int32_t token, const SampledContext& context) {
  int count = 0;
  for (int i = 0; i < 500; ++i) count += sample_token(kLogits, options, i, context) == token;
  return count;
}

TEST(Sampler, TopKAndMinPKeepTheLikeliest) {
  for (int i = 0; i < 500; ++i) {
    EXPECT_EQ(sample_token(kLogits, {.seed = 3, .top_k = 1}, i), 1);
    const int32_t token = sample_token(kLogits, {.seed = 3, .min_p = 0.3}, i);
    EXPECT_TRUE(token == 1 || token == 3 || token == 2)
        << token;  // e^-1 = 0.37 of the likeliest, e^-2 = 0.14
  }
}

TEST(Sampler, PenaltiesAndBias) {
  const std::vector<int32_t> prompt = {1}, answer = {3, 3};
  const SampledContext context{prompt, answer};
  const auto greedy = [&](SamplingOptions options) {
    options.temperature = 0;
    return sample_token(kLogits, options, 0, context);
  };
  EXPECT_EQ(greedy({.repetition_penalty = 3}), 2);                            // 0, 2/3, 1, 2/3, -1
  EXPECT_EQ(greedy({.presence_penalty = 0.5}), 1);                            // the prompt does not count
  EXPECT_EQ(greedy({.frequency_penalty = 0.6, .logit_bias = {{1, -5}}}), 2);  // 2 - 2 · 0.6 < 1
  EXPECT_EQ(greedy({.presence_penalty = 0.6, .logit_bias = {{1, -5}}}), 3);
  EXPECT_EQ(greedy({.logit_bias = {{4, 100}}}), 4);
  EXPECT_EQ(greedy({.logit_bias = {{77, 100}}}), 1);  // beyond what may be drawn
  const std::vector<int32_t> negative = {4};
  EXPECT_EQ(count_of({.repetition_penalty = 1e6}, 4, {prompt, negative}),
            0);  // negative logits move away from 0
}

TEST(Sampler, LargeVocabulariesAreOrderedAsFarAsNeeded) {
  std::vector<float> logits(5000);
  for (size_t v = 0; v < logits.size(); ++v) logits[v] = -0.001f * static_cast<float>(v * 7919 % 5000);
  std::vector<int> counts(logits.size());
  for (int i = 0; i < 300; ++i)
    ++counts[static_cast<size_t>(sample_token(logits, {.seed = 9, .top_k = 700}, i))];
  for (size_t v = 0; v < logits.size(); ++v) EXPECT_TRUE(counts[v] == 0 || v * 7919 % 5000 < 700) << v;
}

TEST(Sampler, Logprobs) {
  const TokenLogprobs logprobs = token_logprobs(kLogits, 2, 3);
  double sum = 0;
  for (float logit : kLogits) sum += std::exp(static_cast<double>(logit));
  EXPECT_NEAR(logprobs.chosen.logprob, 1 - std::log(sum), 1e-12);
  ASSERT_EQ(logprobs.top.size(), 3u);
  EXPECT_EQ(logprobs.top[0].token, 1);
  EXPECT_EQ(logprobs.top[1].token, 3);
  EXPECT_EQ(logprobs.top[2].token, 2);
}

}  // namespace
}  // namespace moray
