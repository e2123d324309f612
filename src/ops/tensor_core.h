// A scalar model of how Hopper's tensor cores add up FP8 products.
//
// Products enter in groups of 32, in ascending order of k. A group is added to the accumulator c in one step:
//   1. every product a·b is exact;
//   2. E is the largest exponent ⌊log2|t|⌋ among the 33 terms t: the products and c (zeros have none);
//   3. each term is cut to a multiple of q = 2^(E − bits + 1), so that the largest keeps `bits` significant
//   bits and a
//      smaller one as many fewer as its exponent lies lower: toward zero, or to nearest with ties to even;
//   4. the cut terms are added exactly;
//   5. the sum, which may have grown beyond 2^(E+1), is cut in the same way to `bits` significant bits: the
//   new c.
// The accumulator is not promoted, or, every `promotion` products, added to an FP32 sum by an ordinary
// rounded addition and set to 0. The V3 report observes 14 bits and truncation, and promotes every 128; the
// scales, which it applies there, play no part here: they do in ops/matmul_fp8.h's products on the reference
// device, with Exec::tensor_core set.
//
// What the model leaves open in silicon: whether a product's exponent is taken before or after its
// normalisation (here after), whether a cut is toward zero or toward −∞ (here zero), and in which groups of
// 32 the hardware walks k.
#pragma once

#include <cstdint>

namespace moray {

struct TensorCore {
  int bits = 14;            // 2 to 24
  bool round = false;       // to nearest even; else truncate
  int64_t promotion = 128;  // products between promotions, a multiple of kGroup; 0: never
  static constexpr int64_t kGroup = 32;
};

// A sum of products as the model forms it.
class TensorCoreSum {
 public:
  explicit TensorCoreSum(const TensorCore& core) : core_(core) {}

  // Adds `count` products, of values of at most 24 bits. All but the last call give a multiple of kGroup.
  void add(const float* a, const float* b, int64_t count);
  float value() const { return promoted_ + static_cast<float>(accumulator_); }

 private:
  void add_group(const float* a, const float* b, int64_t count);

  TensorCore core_;
  double accumulator_ = 0;
  int64_t since_promotion_ = 0;
  float promoted_ = 0;
};

}  // namespace moray
