// Every function against double-precision libm, in units in the last place, and AVX2 against AVX-512 bit for
// bit.

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/vector_math_test.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h, as Highway wants it.
#include "backend/cpu/vector_math.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {
namespace {

template <class Function>
void map(const float* x, float* y, size_t count, const Function& function) {
  const hn::ScalableTag<float> d;
  for (size_t i = 0; i < count; i += hn::Lanes(d)) hn::StoreU(function(d, hn::LoadU(d, x + i)), d, y + i);
}

void exp_all(const float* x, float* y, size_t count) {
  map(x, y, count, [](auto d, auto v) HWY_ATTR { return vector_exp(d, v); });
}
void exp_nonpositive_all(const float* x, float* y, size_t count) {
  map(x, y, count, [](auto d, auto v) HWY_ATTR { return vector_exp_nonpositive(d, v); });
}
void log_all(const float* x, float* y, size_t count) {
  map(x, y, count, [](auto d, auto v) HWY_ATTR { return vector_log(d, v); });
}
void sigmoid_all(const float* x, float* y, size_t count) {
  map(x, y, count, [](auto d, auto v) HWY_ATTR { return vector_sigmoid(d, v); });
}

}  // namespace
}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "backend/cpu/register.h"

namespace moray::cpu {
HWY_EXPORT(exp_all);
HWY_EXPORT(exp_nonpositive_all);
HWY_EXPORT(log_all);
HWY_EXPORT(sigmoid_all);

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

using Map = std::vector<float> (*)(const std::vector<float>&);

std::vector<float> exps(const std::vector<float>& x) {
  std::vector<float> y(x.size());
  HWY_DYNAMIC_DISPATCH(exp_all)(x.data(), y.data(), x.size());
  return y;
}
std::vector<float> exps_nonpositive(const std::vector<float>& x) {
  std::vector<float> y(x.size());
  HWY_DYNAMIC_DISPATCH(exp_nonpositive_all)(x.data(), y.data(), x.size());
  return y;
}
std::vector<float> logs(const std::vector<float>& x) {
  std::vector<float> y(x.size());
  HWY_DYNAMIC_DISPATCH(log_all)(x.data(), y.data(), x.size());
  return y;
}
std::vector<float> sigmoids(const std::vector<float>& x) {
  std::vector<float> y(x.size());
  HWY_DYNAMIC_DISPATCH(sigmoid_all)(x.data(), y.data(), x.size());
  return y;
}

double ulps(float got, double expected) {
  const float rounded = static_cast<float>(expected);
  if (got == rounded || (std::isnan(got) && std::isnan(expected))) return 0;
  if (std::isinf(got) || std::isinf(rounded) || std::isnan(got)) return 1e30;
  int exponent = 0;
  std::frexp(expected, &exponent);
  return std::abs(got - expected) / std::ldexp(1.0, std::max(exponent - 24, -149));
}

// Two million evenly spaced points of [low, high].
std::vector<float> grid(double low, double high) {
  constexpr size_t kPoints = 1 << 21;
  std::vector<float> x(kPoints);
  for (size_t i = 0; i < kPoints; ++i)
    x[i] = static_cast<float>(low + (high - low) * static_cast<double>(i) / (kPoints - 1));
  return x;
}

// Every 1021st positive float: all binades, subnormals included.
std::vector<float> all_binades() {
  std::vector<float> x;
  for (uint32_t bits = 0; bits < 0x7f800000u; bits += 1021) x.push_back(std::bit_cast<float>(bits));
  x.resize(x.size() / 16 * 16);
  return x;
}

double worst(Map map, double (*exact)(double), const std::vector<float>& x) {
  const std::vector<float> y = map(x);
  double error = 0;
  for (size_t i = 0; i < x.size(); ++i) error = std::max(error, ulps(y[i], exact(x[i])));
  return error;
}

double exact_exp(double x) {
  return std::exp(x);
}
double exact_log(double x) {
  return std::log(x);
}
double exact_sigmoid(double x) {
  return x < 0 ? std::exp(x) / (1 + std::exp(x)) : 1 / (1 + std::exp(-x));
}

TEST(VectorMath, ErrorsInUlps) {
  EXPECT_LE(worst(exps, exact_exp, grid(-106, 90)), 1.0);
  EXPECT_LE(worst(exps, exact_exp, grid(-1, 1)), 1.0);
  EXPECT_LE(worst(exps_nonpositive, exact_exp, grid(-87.2, 1)), 1.0);
  EXPECT_LE(worst(logs, exact_log, all_binades()), 1.0);
  EXPECT_LE(worst(logs, exact_log, grid(0.5, 2)), 1.0);
  EXPECT_LE(worst(sigmoids, exact_sigmoid, grid(-106, 30)), 1.5);
  EXPECT_LE(worst(sigmoids, exact_sigmoid, grid(-2, 2)), 1.5);
}

TEST(VectorMath, Extremes) {
  std::vector<float> x(16, 0.0f);
  const float values[] = {-kInfinity, kInfinity, kNan, 1e30f, -1e30f, 0.0f, -0.0f, 88.7f};
  std::copy(std::begin(values), std::end(values), x.begin());
  const std::vector<float> e = exps(x), s = sigmoids(x), l = logs(x);
  EXPECT_EQ(e[0], 0.0f);
  EXPECT_EQ(e[1], kInfinity);
  EXPECT_TRUE(std::isnan(e[2]));
  EXPECT_EQ(e[3], kInfinity);
  EXPECT_EQ(e[4], 0.0f);
  EXPECT_EQ(e[5], 1.0f);
  EXPECT_EQ(e[6], 1.0f);
  EXPECT_TRUE(std::isfinite(e[7]));
  const std::vector<float> p = exps_nonpositive(x);
  EXPECT_EQ(p[0], 0.0f);
  EXPECT_TRUE(std::isnan(p[2]));
  EXPECT_EQ(p[4], 0.0f);
  EXPECT_EQ(p[5], 1.0f);
  EXPECT_EQ(s[0], 0.0f);
  EXPECT_EQ(s[1], 1.0f);
  EXPECT_TRUE(std::isnan(s[2]));
  EXPECT_EQ(s[3], 1.0f);
  EXPECT_EQ(s[4], 0.0f);
  EXPECT_EQ(s[5], 0.5f);
  EXPECT_TRUE(std::isnan(l[0]));
  EXPECT_EQ(l[1], kInfinity);
  EXPECT_TRUE(std::isnan(l[2]));
  EXPECT_TRUE(std::isnan(l[4]));
  EXPECT_EQ(l[5], -kInfinity);
  EXPECT_EQ(l[6], -kInfinity);
}

// Where it is skipped, every other test of both instruction sets is of AVX2 alone.
TEST(NeedsAvx512, SameBitsOnBothInstructionSets) {
  if (!force_simd("avx512")) GTEST_SKIP() << "this machine has no AVX-512";
  std::vector<float> x = all_binades();
  const size_t positive = x.size();
  for (size_t i = 0; i < positive; ++i) x.push_back(-x[i]);
  for (Map map : {exps, exps_nonpositive, logs, sigmoids}) {
    ASSERT_TRUE(force_simd("avx512"));
    const std::vector<float> wide = map(x);
    ASSERT_TRUE(force_simd("avx2"));
    const std::vector<float> narrow = map(x);
    EXPECT_EQ(std::memcmp(wide.data(), narrow.data(), wide.size() * sizeof(float)), 0);
  }
  force_simd("avx512");
}

}  // namespace
}  // namespace moray::cpu
#endif  // HWY_ONCE
