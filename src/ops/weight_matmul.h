// Products of activations with weights as checkpoints store them: f32, bf16, E4M3 codes with a scale a
// 128×128 block, or integer codes of 8 or 4 bits with a scale for a row and 128 columns (tensor/int_rows.h).
// Weight-only FP8: codes are widened, activations kept. Integers: activations are quantized to 8 bits, a
// row's block of 128 at a time (quantize_activations_int8), so that a block's products are exact.
//
// T tokens (rows), I inputs, O outputs.
//
// Every output is summed as ops/matmul.h says; with an FP8 weight a k-block joins with the scale of its
// block: part sums decoded codes, run = fma(scale, part, run). Integer weights: with part = Σ x_code ·
// w_integer over a block of 128, exact (below 2²⁴), blocks in order,
//   run = fma(round32(x_scale · w_scale), part, run)
// from 0. Where only an element of such a weight is asked for, it is round32(w_integer · scale).
#pragma once

#include <span>

#include "ops/rows.h"
#include "tensor/int_rows.h"
#include "tensor/quantized.h"

namespace moray {

struct StoredWeight {
  // f32, bf16, f8_e4m3, i8 (8 bits), or u8 [O, int4_row_bytes(I)] (4 bits), in rows or panels
  // (tensor/panels.h).
  Tensor values_OI;
  // f32. Of f8_e4m3: [ceil(rows of the whole weight / 128), ceil(I / 128)]; of integers [O, ceil(I / 128)],
  // which lie as their values do.
  Tensor scales;
  int64_t first_row = 0;  // of f8_e4m3 in the whole weight, whose blocks the scales follow

  bool is_integer() const { return values_OI.dtype() == DType::i8 || values_OI.dtype() == DType::u8; }
  int64_t outputs() const { return values_OI.extent(0); }
  int64_t inputs() const {
    return values_OI.dtype() == DType::u8 ? int4_row_columns(values_OI.extent(1)) : values_OI.extent(1);
  }
  size_t bytes() const { return values_OI.bytes() + (scales.defined() ? scales.bytes() : 0); }
  StoredWeight rows(int64_t begin, int64_t end) const {
    if (is_integer()) return {values_OI.rows(begin, end), scales.rows(begin, end), 0};
    return {values_OI.rows(begin, end), scales, first_row + begin};
  }
  // One of a stack [E, O, I], whose scales are a stack too.
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

// An FP8 scale must be below this: kernels give it the 2¹²⁰ that the bits of a code lack as FP32.
constexpr float kMostFp8Scale = 128;

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
