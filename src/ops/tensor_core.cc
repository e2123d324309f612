#include "ops/tensor_core.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

namespace moray {

namespace {

constexpr int kLeastFp32Exponent = -126;

// ⌊log2|x|⌋, or `least` where that is lower.
int exponent(double x, int least) {
  return std::max(least, static_cast<int>(std::bit_cast<uint64_t>(x) >> 52 & 0x7ff) - 1023);
}

double power_of_two(int exponent) {
  return std::bit_cast<double>(static_cast<uint64_t>(1023 + exponent) << 52);
}

// x as a multiple of 2^(exponent − bits + 1).
double cut(double x, int exponent, const TensorCore& core) {
  const int quantum = exponent - core.bits + 1;
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
  int largest = exponent(accumulator_, kLeastFp32Exponent);
  for (int64_t k = 0; k < count; ++k) {
    const double a_k = a[k], b_k = b[k];
    products[static_cast<size_t>(k)] = a_k * b_k;
    if (a_k * b_k != 0) largest = std::max(largest, exponent(a_k, a_least_) + exponent(b_k, b_least_));
  }
  double sum = cut(accumulator_, largest, core_);
  for (int64_t k = 0; k < count; ++k) sum += cut(products[static_cast<size_t>(k)], largest, core_);
  accumulator_ = cut(sum, exponent(sum, largest), core_);
  since_promotion_ += count;
  if (since_promotion_ == core_.promotion) {
    promoted_ += static_cast<float>(accumulator_);
    accumulator_ = 0;
    since_promotion_ = 0;
  }
}

}  // namespace moray
