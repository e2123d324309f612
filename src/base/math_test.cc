#include "base/math.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/random.h"

namespace moray {
namespace {

TEST(PortableMath, AgreesWithTheCLibrary) {
  Random random(1, 2);
  for (int i = 0; i < 200000; ++i) {
    const double x = (random.uniform() - 0.5) * 80;
    EXPECT_NEAR(portable::exp(x) / std::exp(x), 1, 1e-14);
    const double positive = std::exp(x);
    EXPECT_NEAR(portable::log(positive), std::log(positive),
                1e-14 * std::max(1.0, std::abs(std::log(positive))));
    const double angle = (random.uniform() - 0.5) * 2e6;
    EXPECT_NEAR(portable::sin(angle), std::sin(angle), 1e-14);
    EXPECT_NEAR(portable::cos(angle), std::cos(angle), 1e-14);
  }
  EXPECT_NEAR(portable::pow(10000, -0.75), std::pow(10000, -0.75), 1e-16);
  EXPECT_EQ(portable::exp(-1000), 0);
  EXPECT_EQ(portable::exp(0), 1);
  EXPECT_EQ(portable::log(1), 0);
}

TEST(Random, IsAFunctionOfSeedAndStream) {
  Random a(7, 1), b(7, 1), c(7, 2);
  const uint64_t first = a.next();
  EXPECT_EQ(first, b.next());
  EXPECT_NE(first, c.next());
}

TEST(Random, NormalHasUnitVariance) {
  Random random(3, 0);
  double sum = 0, squares = 0;
  constexpr int kCount = 200000;
  for (int i = 0; i < kCount; ++i) {
    const double x = random.normal();
    sum += x;
    squares += x * x;
  }
  EXPECT_NEAR(sum / kCount, 0, 0.01);
  EXPECT_NEAR(squares / kCount, 1, 0.01);
}

TEST(Random, BelowIsInRangeAndCoversIt) {
  Random random(3, 1);
  int counts[7] = {};
  for (int i = 0; i < 7000; ++i) ++counts[random.below(7)];
  for (int count : counts) EXPECT_NEAR(count, 1000, 150);
}

TEST(Permutation, IsABijectionOfEverySize) {
  for (uint64_t size : {1u, 2u, 3u, 17u, 256u, 1000u}) {
    std::vector<bool> seen(size);
    for (uint64_t i = 0; i < size; ++i) {
      const uint64_t at = permuted_index(i, size, 42);
      ASSERT_LT(at, size);
      EXPECT_FALSE(seen[at]);
      seen[at] = true;
    }
  }
}

}  // namespace
}  // namespace moray
