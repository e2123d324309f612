// Products of activations with weights as checkpoints store them: f32, bf16, or E4M3 codes with a scale a
// 128×128 block. Weight-only FP8: codes are widened, activations kept.
//
// T tokens (rows), I inputs, O outputs.
//
// Every output is summed as ops/matmul.h says. An element of an FP8 weight is round32(decode(code) · scale).
#pragma once

#include <span>

#include "ops/rows.h"
#include "tensor/quantized.h"

namespace moray {

struct StoredWeight {
  Tensor values_OI;      // f32, bf16 or f8_e4m3
  Tensor scales;         // of f8_e4m3: f32 [ceil(rows of the whole weight / 128), ceil(I / 128)]
  int64_t first_row = 0;  // of values_OI in the whole weight, whose blocks the scales follow

  int64_t outputs() const { return values_OI.extent(0); }
  int64_t inputs() const { return values_OI.extent(1); }
  size_t bytes() const { return values_OI.bytes() + (scales.defined() ? scales.bytes() : 0); }
  StoredWeight rows(int64_t begin, int64_t end) const {
    return {values_OI.rows(begin, end), scales, first_row + begin};
  }
  // One of a stack [E, O, I], whose scales are [E, ceil(O/128), ceil(I/128)].
  StoredWeight matrix(int64_t index) const {
    return {values_OI.row(index), scales.defined() ? scales.row(index) : Tensor(), 0};
  }
};

// y_TO = x_TI · wᵀ
struct WeightProduct {
  Tensor x_TI;
  StoredWeight w_OI;
  Tensor y_TO;
};

// An FP8 scale must be below this, so that kernels may fold the exponent of a code into it.
constexpr float kMostWeightScale = 128;

struct WeightMatmulKernels {
  void (*forward)(Exec&, std::span<const WeightProduct>) = nullptr;
};

// All products at once, so that small ones share the threads; they must write different outputs. With few
// rows the time is that of reading the weights once. x and y are f32 (f64 on the reference device).
void weight_matmul(Exec&, std::span<const WeightProduct>);

inline void weight_matmul(Exec& exec, const Tensor& x_TI, const StoredWeight& w_OI, const Tensor& y_TO) {
  const WeightProduct product{x_TI, w_OI, y_TO};
  weight_matmul(exec, {&product, 1});
}

}  // namespace moray
