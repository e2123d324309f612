#include "ops/tensor_core.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

namespace moray {

namespace {

// The exponent field: monotone in |x|, and 0 for 0. Products of FP8 codes are far from double's subnormal
// numbers.
int exponent_field(double x) {
  return static_cast<int>(std::bit_cast<uint64_t>(x) >> 52 & 0x7ff);
}

double power_of_two(int exponent) {
  return std::bit_cast<double>(static_cast<uint64_t>(1023 + exponent) << 52);
}

// x as a multiple of 2^(E − bits + 1), E the exponent of that field.
double cut(double x, int field, const TensorCore& core) {
  const int quantum = field - 1023 - core.bits + 1;
  const double steps = x * power_of_two(-quantum);
  return (core.round ? std::nearbyint(steps) : std::trunc(steps)) * power_of_two(quantum);
}

}  // namespace

void TensorCoreSum::add(const float* a, const float* b, int64_t count) {
  for (int64_t k = 0; k < count; k += TensorCore::kGroup)
    add_group(a + k, b + k, std::min(TensorCore::kGroup, count - k));
}

void TensorCoreSum::add_group(const float* a, const float* b, int64_t count) {
  std::array<double, TensorCore::kGroup> products;
  int field = exponent_field(accumulator_);
  for (int64_t k = 0; k < count; ++k) {
    double& product = products[static_cast<size_t>(k)];
    product = static_cast<double>(a[k]) * static_cast<double>(b[k]);
    field = std::max(field, exponent_field(product));
  }
  if (field > 0) {
    double sum = cut(accumulator_, field, core_);
    for (int64_t k = 0; k < count; ++k) sum += cut(products[static_cast<size_t>(k)], field, core_);
    accumulator_ = sum == 0 ? 0 : cut(sum, std::max(field, exponent_field(sum)), core_);
  }
  since_promotion_ += count;
  if (since_promotion_ == core_.promotion) {
    promoted_ += static_cast<float>(accumulator_);
    accumulator_ = 0;
    since_promotion_ = 0;
  }
}

}  // namespace moray
