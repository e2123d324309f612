// Products with weights of 8 and 4 bits (tensor/int_rows.h) in panels (tensor/panels.h): quantized
// activations, and the kernels of each instruction set. Blocks are exact in integers, so that lanes and order
// inside them are free.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "ops/weight_matmul.h"

namespace moray::cpu {

// Rows of activations as quantize_activations_int8 makes them. Codes are 0 from `inputs` up to `stride`, a
// multiple of 128.
struct IntActivations {
  int64_t rows = 0, inputs = 0, stride = 0, blocks = 0;
  int8_t* codes = nullptr;  // [rows, stride]
  float* scales = nullptr;  // [rows, blocks]
  int16_t* sums = nullptr;  // of codes, [rows, 4 · blocks]: of groups of 32
};

// Panels [panel_begin, panel_end) of one product, all its rows.
struct IntPanelsTask {
  const IntActivations* x = nullptr;
  bool int4 = false;
  const std::byte* panels = nullptr;
  int64_t panel_bytes = 0;
  const float* scales = nullptr;  // of a panel's block: 16, [panels, blocks, 16]
  int64_t panel_begin = 0, panel_end = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
};

using IntPanelsKernel = void (*)(const IntPanelsTask&);
void run_int_panels_avx2(const IntPanelsTask&);
void run_int_panels_vnni(const IntPanelsTask&);  // AVX-512 with VNNI

// Row `row` of `x` from FP32 numbers.
void quantize_row(const float* from, int64_t row, const IntActivations& x);

inline bool in_int_panels(const StoredWeight& w) {
  return w.is_integer() && w.values_OI.layout() == TensorLayout::panels;
}

// The products among these whose weights are integers in panels.
void run_int_panels(Exec&, std::span<const WeightProduct>);

}  // namespace moray::cpu
