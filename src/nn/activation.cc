#include "nn/activation.h"

#include "ops/permute.h"

namespace moray {

QuantizedTensor row_tiles(Exec& exec, TensorClass tensor_class, const Tensor& x_TD, CodeFormat format,
                          ScaleFormat scales) {
  const QuantizedTensor q =
      QuantizedTensor::empty(*exec.allocator, x_TD.shape(), format, Tiling::row_tiles, scales);
  quantize_counted(exec, tensor_class, x_TD, q);
  return q;
}

Tensor Activation::numbers(Exec& exec) const {
  if (values.defined()) return values;
  Tensor x_TD = exec.empty(codes.shape);
  dequantize(exec, codes, x_TD);
  return x_TD;
}

Activation Activation::kept(Exec& exec, TensorClass tensor_class, CodeForm form, ScaleFormat scales) const {
  if (!form) return values;
  if (has_codes() && codes.format == *form && codes.scale_format == scales) return Activation(codes);
  return Activation(row_tiles(exec, tensor_class, values, *form, scales));
}

Activation Activation::with_codes(Exec& exec, TensorClass tensor_class, ScaleFormat scales) const {
  if (has_codes()) return *this;
  Activation both = *this;
  both.codes = row_tiles(exec, tensor_class, values, CodeFormat::f8_e4m3, scales);
  return both;
}

Activation Activation::gathered(Exec& exec, const Tensor& index_R) const {
  const int64_t rows = index_R.extent(0);
  if (!has_codes()) {
    const Tensor x_RD = exec.empty({rows, columns()});
    gather_rows(exec, values, index_R, x_RD);
    return x_RD;
  }
  const QuantizedTensor q = QuantizedTensor::empty(*exec.allocator, {rows, columns()}, codes.format,
                                                   codes.tiling, codes.scale_format);
  gather_rows(exec, codes.codes, index_R, q.codes);
  gather_rows(exec, codes.scales, index_R, q.scales);
  return Activation(q);
}

}  // namespace moray
