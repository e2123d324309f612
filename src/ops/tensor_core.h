// A scalar model of how Hopper's tensor cores add up FP8 products.
//
// Products enter in groups of 32, in ascending order of k. A group is added to the accumulator c in one step:
//   1. every product a·b is exact; its exponent is the sum of its operands', before normalisation, a
//   subnormal
//      operand's being that of the smallest normal number of its format. A product of 0 takes no part;
//   2. E is the largest exponent among the products and c, and at least −126;
//   3. each term is cut to a multiple of q = 2^(E − bits + 1): toward zero, or to nearest with ties to even;
//   4. the cut terms are added exactly;
//   5. the sum, which may have grown beyond 2^(E+1), is cut in the same way to `bits` significant bits: the
//      new c.
// The accumulator is not promoted, or, every `promotion` products, added to an FP32 sum by an ordinary
// rounded addition and set to 0. The V3 report observes 14 bits and truncation, and promotes every 128; the
// scales, which it applies there, play no part here: they do in ops/matmul_fp8.h's products on the reference
// device, with Exec::tensor_core set.
//
// With 14 bits and truncation these are an H100's wgmma sums to the bit, in every mix of E4M3 and E5M2
// (backend/cuda/tensor_core_check.cu; docs/results/hopper-tensor-core.txt).
#pragma once

#include <cstdint>

#include "base/narrow_float.h"

namespace moray {

struct TensorCore {
  int bits = 14;            // 2 to 24
  bool round = false;       // to nearest even; else truncate
  int64_t promotion = 128;  // products between promotions, a multiple of kGroup; 0: never
  static constexpr int64_t kGroup = 32;
};

// The exponent of a format's smallest normal number.
template <class Format>
constexpr int kLeastExponent = 1 - Format::bias;

// A sum of products as the model forms it.
class TensorCoreSum {
 public:
  // The least exponents are those of the operands' formats.
  explicit TensorCoreSum(const TensorCore& core, int a_least_exponent = kLeastExponent<e4m3>,
                         int b_least_exponent = kLeastExponent<e4m3>, float start = 0)
      : core_(core), a_least_(a_least_exponent), b_least_(b_least_exponent), accumulator_(start) {}

  // Adds `count` products, of values of at most 24 bits. All but the last call give a multiple of kGroup.
  void add(const float* a, const float* b, int64_t count);
  float value() const { return promoted_ + static_cast<float>(accumulator_); }

 private:
  void add_group(const float* a, const float* b, int64_t count);

  TensorCore core_;
  int a_least_, b_least_;
  double accumulator_;
  int64_t since_promotion_ = 0;
  float promoted_ = 0;
};

}  // namespace moray
