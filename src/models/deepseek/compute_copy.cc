#include "models/deepseek/compute_copy.h"

#include "ops/elementwise.h"
#include "ops/quantization_counts.h"

namespace moray::deepseek {

namespace {
struct ProductWeight {
  Tensor values;
  QuantizedTensor codes;
};

std::vector<ProductWeight> product_weights(Model& model) {
  std::vector<ProductWeight> weights;
  model.visit_products([&](Tensor& weight, QuantizedTensor* codes) {
    weights.push_back({weight, codes != nullptr ? *codes : QuantizedTensor()});
  });
  return weights;
}
}  // namespace

Model allocate_compute_copy(const Exec& exec, Model& master, const Precision& precision) {
  Model copy = master;
  copy.set_precision(precision);
  if (precision.kind == PrecisionKind::f32) return copy;
  copy.visit_products([&](Tensor& weight, QuantizedTensor* codes) {
    if (precision.fp8() && codes != nullptr)
      *codes = QuantizedTensor::empty(*exec.allocator, weight.shape(), CodeFormat::f8_e4m3, Tiling::blocks,
                                      precision.scales);
    else
      weight = Tensor::empty(*exec.allocator, weight.shape(), DType::bf16);
  });
  return copy;
}

void refresh_compute_copy(Exec& exec, Model& master, Model& copy) {
  const std::vector<ProductWeight> from = product_weights(master), to = product_weights(copy);
  for (size_t i = 0; i < from.size(); ++i) {
    const bool quantized = to[i].codes.codes.defined();
    if (quantized) quantize_counted(exec, TensorClass::weights, from[i].values, to[i].codes);
    if (!quantized && to[i].values.dtype() != from[i].values.dtype())
      convert(exec, from[i].values, to[i].values);
  }
}

}  // namespace moray::deepseek
