// Activations as layers pass, keep and send them: numbers, codes by row tiles, or both.
//
// T rows, D columns.
#pragma once

#include "nn/precision.h"
#include "ops/quantization_counts.h"

namespace moray {

struct Activation {
  Tensor values;
  QuantizedTensor codes;

  Activation() = default;
  Activation(const Tensor& numbers) : values(numbers) {}
  explicit Activation(const QuantizedTensor& quantized) : codes(quantized) {}

  bool defined() const { return values.defined() || has_codes(); }
  bool has_codes() const { return codes.codes.defined(); }
  int64_t rows() const { return has_codes() ? codes.shape[0] : values.extent(0); }
  int64_t columns() const { return has_codes() ? codes.columns() : values.extent(1); }

  // The numbers, from the codes where nothing else is left.
  Tensor numbers(Exec&) const;
  // The codes alone, in `form`; the numbers alone without one.
  Activation kept(Exec&, TensorClass, CodeForm form, ScaleFormat) const;
  // With codes of E4M3 by row tiles for a product; made of the numbers unless they are there.
  Activation with_codes(Exec&, TensorClass, ScaleFormat) const;
  // x[r] = this[index[r]].
  Activation gathered(Exec&, const Tensor& index_R) const;
};

QuantizedTensor row_tiles(Exec&, TensorClass, const Tensor& x_TD, CodeFormat, ScaleFormat);

// As a weight's gradient needs it: E4M3 by token tiles over the k-blocks of `rows`; from codes where there
// are some (their scales' format is kept), else from the numbers.
template <class Rows>
QuantizedTensor token_tiles(Exec& exec, TensorClass tensor_class, const Activation& x, const Rows& rows,
                            ScaleFormat scales) {
  if (x.has_codes() && x.codes.tiling == Tiling::token_tiles) return x.codes;
  const QuantizedTensor q =
      QuantizedTensor::empty(*exec.allocator, {x.rows(), x.columns()}, CodeFormat::f8_e4m3,
                             Tiling::token_tiles, x.has_codes() ? x.codes.scale_format : scales,
                             row_blocks(*exec.allocator, rows), most_row_blocks(rows));
  if (x.has_codes())
    retile_counted(exec, tensor_class, x.codes, q);
  else
    quantize_counted(exec, tensor_class, x.values, q);
  return q;
}

}  // namespace moray
