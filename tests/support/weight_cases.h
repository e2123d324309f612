// Weights of every format and layout, for tests.
#pragma once

#include <ostream>

#include "ops/weight_matmul.h"
#include "tensor/panels.h"
#include "tests/support/workbench.h"

namespace moray {

struct WeightCase {
  DType dtype;
  int64_t rows, inputs, outputs;
  int64_t first_row = 0;  // of the slice that is multiplied with
  TensorLayout layout = TensorLayout::rows;
};

inline void PrintTo(const WeightCase& c, std::ostream* os) {
  *os << dtype_name(c.dtype) << " " << c.rows << "x" << c.inputs << "x" << c.outputs << " from row "
      << c.first_row << (c.layout == TensorLayout::panels ? " in panels" : "");
}

inline Tensor packed(const Tensor& matrix) {
  pack_panels(matrix.raw(), matrix.extent(0), static_cast<int64_t>(matrix.bytes()) / matrix.extent(0),
              matrix.dtype());
  return matrix.lying_in(TensorLayout::panels);
}

// The same numbers on every device. FP8: every code but the two NaNs, subnormal ones and both zeros included.
inline StoredWeight weight_of(const WeightCase& c, Workbench& bench) {
  const int64_t rows = c.first_row + c.outputs;
  StoredWeight weight;
  if (c.dtype == DType::bf16) {
    weight.values_OI = bench.normal_bf16("w", {rows, c.inputs});
  } else if (c.dtype == DType::f32) {
    Workbench plain(Device::cpu, DType::f32);
    const Tensor w = plain.normal("w", {rows, c.inputs});
    weight.values_OI = Tensor::empty(*bench.exec.allocator, w.shape(), DType::f32);
    weight.values_OI.copy_from(w);
  } else if (c.dtype == DType::i8 || c.dtype == DType::u8) {
    const bool bytes = c.dtype == DType::i8;
    const Shape shape{rows, bytes ? c.inputs : int4_row_bytes(c.inputs)};
    const Tensor codes = bench.ints_below("codes", shape, bytes ? 255 : 256);
    weight.values_OI = Tensor::empty(*bench.exec.allocator, shape, c.dtype);
    for (int64_t i = 0; i < codes.elements(); ++i)
      weight.values_OI.raw()[i] = static_cast<std::byte>(codes.data<int32_t>()[i] - (bytes ? 127 : 0));
    weight.scales = Tensor::empty(*bench.exec.allocator, {rows, int_row_scales(c.inputs)}, DType::f32);
    for (int64_t i = 0; i < weight.scales.elements(); ++i)
      weight.scales.data<float>()[i] = 0.001f * static_cast<float>(1 + i % 7) / 3.0f;
  } else {
    const Tensor codes = bench.ints_below("codes", {rows, c.inputs}, 256);
    weight.values_OI = Tensor::empty(*bench.exec.allocator, codes.shape(), DType::f8_e4m3);
    for (int64_t i = 0; i < codes.elements(); ++i) {
      const auto code = static_cast<uint8_t>(codes.data<int32_t>()[i]);
      weight.values_OI.data<e4m3>()[i].bits = (code & 0x7f) == 0x7f ? uint8_t{1} : code;
    }
    const Shape blocks{(rows + kTile - 1) / kTile, (c.inputs + kTile - 1) / kTile};
    weight.scales = Tensor::empty(*bench.exec.allocator, blocks, DType::f32);
    for (int64_t i = 0; i < blocks.elements(); ++i)
      weight.scales.data<float>()[i] = 0.001f * static_cast<float>(1 + i % 7) / 3.0f;
  }
  if (c.layout == TensorLayout::panels) {
    weight.values_OI = packed(weight.values_OI);
    if (weight.is_integer()) weight.scales = packed(weight.scales);
  }
  return weight.rows(c.first_row, rows);
}

}  // namespace moray
