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
  const std::vector<float> bad = {0.0f, std::numeric_limits<float>::quiet_NaN()};
  EXPECT_THROW(sample_token(bad, {}, 0), Error);
}

}  // namespace
}  // namespace moray
