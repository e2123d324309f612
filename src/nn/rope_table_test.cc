#include "nn/rope_table.h"

#include <gtest/gtest.h>

#include <cmath>

namespace moray {
namespace {

TEST(RopeFrequencies, ArePowersOfTheta) {
  const std::vector<double> frequencies = rope_frequencies(64, 10000, std::nullopt);
  ASSERT_EQ(frequencies.size(), 32u);
  for (size_t j = 0; j < 32; ++j)
    EXPECT_NEAR(frequencies[j], std::pow(10000.0, -2.0 * static_cast<double>(j) / 64), 1e-15);
}

// serving §1: the ramp runs over pairs [10, 23] for V3 and [19, 20] for K2.
TEST(RopeFrequencies, YarnRampOfThePublishedModels) {
  const auto ramp = [](double theta, const YarnConfig& yarn) {
    const std::vector<double> plain = rope_frequencies(64, theta, std::nullopt),
                              with = rope_frequencies(64, theta, yarn);
    int last_untouched = -1, first_divided = 32;
    for (int j = 31; j >= 0; --j)
      if (std::abs(with[static_cast<size_t>(j)] * yarn.factor / plain[static_cast<size_t>(j)] - 1) < 1e-12)
        first_divided = j;
    for (int j = 0; j < 32; ++j)
      if (with[static_cast<size_t>(j)] == plain[static_cast<size_t>(j)]) last_untouched = j;
    return std::pair(last_untouched, first_divided);
  };
  EXPECT_EQ(ramp(10000, {.factor = 40, .beta_fast = 32, .beta_slow = 1}), std::pair(10, 23));
  EXPECT_EQ(ramp(50000, {.factor = 64, .beta_fast = 1, .beta_slow = 1}), std::pair(19, 20));
}

TEST(YarnMscale, IsTheReportsAttentionFactor) {
  EXPECT_NEAR(yarn_mscale(40, 1), 0.1 * std::log(40) + 1, 1e-14);
  EXPECT_EQ(yarn_mscale(1, 1), 1);
}

}  // namespace
}  // namespace moray
