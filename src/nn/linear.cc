#include "nn/linear.h"

namespace moray {

Tensor Linear::forward(Exec& exec, const Tensor& x_TI, Saved& saved) const {
  saved.x_TI = x_TI;
  Tensor y_TO = exec.empty({x_TI.extent(0), weight_OI.extent(0)});
  matmul_forward(exec, x_TI, weight_OI, y_TO);
  return y_TO;
}

Tensor Linear::backward_input(Exec& exec, const Tensor& dy_TO, Saved&& saved, Deferred& deferred,
                              Tensor dx_TI) const {
  const bool accumulate = dx_TI.defined();
  if (!accumulate) dx_TI = exec.empty({dy_TO.extent(0), weight_OI.extent(1)});
  matmul_backward_input(exec, dy_TO, weight_OI, dx_TI, accumulate);
  deferred = {std::move(saved.x_TI), dy_TO};
  return dx_TI;
}

void Linear::backward_weight(Exec& exec, Deferred&& deferred, const SampleRows& rows,
                             Linear& gradient) const {
  matmul_backward_weight(exec, deferred.dy_TO, deferred.x_TI, rows, gradient.weight_OI);
  deferred = {};
}

void Linear::visit(const std::string& prefix, const ParameterVisitor& visitor) {
  visitor(prefix + "weight", weight_OI, ParameterKind::matrix);
}

void Linear::visit_products(const ProductWeightVisitor& visitor) {
  visitor(weight_OI);
}

}  // namespace moray
