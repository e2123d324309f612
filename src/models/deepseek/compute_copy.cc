#include "models/deepseek/compute_copy.h"

#include "ops/elementwise.h"

namespace moray::deepseek {

namespace {
std::vector<Tensor> product_weights(Model& model) {
  std::vector<Tensor> weights;
  model.visit_products([&](Tensor& weight) { weights.push_back(weight); });
  return weights;
}
}  // namespace

Model allocate_compute_copy(const Exec& exec, Model& master, const Precision& precision) {
  Model copy = master;
  if (precision.kind == PrecisionKind::f32) return copy;
  copy.visit_products(
      [&](Tensor& weight) { weight = Tensor::empty(*exec.allocator, weight.shape(), DType::bf16); });
  return copy;
}

void refresh_compute_copy(Exec& exec, Model& master, Model& copy) {
  const std::vector<Tensor> from = product_weights(master), to = product_weights(copy);
  for (size_t i = 0; i < from.size(); ++i)
    if (to[i].dtype() != from[i].dtype()) convert(exec, from[i], to[i]);
}

}  // namespace moray::deepseek
