// How far FP8 products lie from exact ones, by the accumulator's bits, the promotion interval and K.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "ops/tensor_core.h"
#include "runtime/thread_pool.h"

namespace moray::numerics {

// Of the elements of both matrices, before one scale brings each matrix's largest to 448 and they are rounded
// to E4M3.
enum class Distribution : uint8_t {
  zero_mean,  // normal, mean 0
  positive,   // uniform in [0, 1)
};
const char* distribution_name(Distribution distribution);  // "zero-mean", "positive"

struct ProductStudy {
  std::vector<int> bits = {10, 12, 14, 16, 18, 22};
  std::vector<int64_t> promotions = {0, 128, 256, 512, 1024};
  bool round = false;
  int64_t rows = 32;  // the product is [rows, K] · [rows, K]ᵀ
  uint64_t seed = 1;

  // What is measured: both distributions, each in FP32 and by every pair.
  int64_t accumulations() const { return 2 * (1 + static_cast<int64_t>(bits.size() * promotions.size())); }

  static constexpr int64_t kLeastK = 128, kMostK = 16384;  // K doubles from one to the other
};

// Errors against float64, in which products of E4M3 numbers and their sums are exact here: only the
// accumulation is measured, not the rounding to E4M3.
struct ProductError {
  Distribution distribution = Distribution::zero_mean;
  int bits = 0;  // 0: FP32 fused multiply-adds in ascending order in blocks of `promotion` (docs/numerics.md)
  int64_t promotion = 0;
  int64_t k = 0;
  double max_error = 0;  // max|err| / max|exact|
  double rms_error = 0;  // √(Σ err² / Σ exact²)
};

// Both distributions; FP32 in blocks of 128 and every pair of bits and promotion; each at every K.
// `progress(done)` is called after each of study.accumulations().
std::vector<ProductError> study_products(const ProductStudy& study, ThreadPool& pool,
                                         const std::function<void(int64_t)>& progress);

const ProductError* find_error(const std::vector<ProductError>& errors, Distribution distribution, int bits,
                               int64_t promotion, int64_t k);  // nullptr: not among them

// The same as text: at K = 4096 by bits and promotion, and by K.
std::string products_table(const ProductStudy& study, const std::vector<ProductError>& errors);
// And as a self-contained page with charts.
std::string products_html(const ProductStudy& study, const std::vector<ProductError>& errors);

}  // namespace moray::numerics
