#include "nn/mlp.h"

namespace moray {

Tensor Mlp::forward(Exec& exec, const Tensor& x_TD, Saved& saved) const {
  saved.gate_TF = gate_proj.forward(exec, x_TD, saved.gate_proj);
  saved.up_TF = up_proj.forward(exec, x_TD, saved.up_proj);
  const Tensor h_TF = exec.empty(saved.gate_TF.shape());
  swiglu_forward(exec, saved.gate_TF, saved.up_TF, h_TF);
  const Tensor y_TD = exec.empty(x_TD.shape());
  matmul_forward(exec, h_TF, down_proj.weight_OI, y_TD);
  return y_TD;
}

Tensor Mlp::backward_input(Exec& exec, const Tensor& dy_TD, Saved&& saved, Deferred& deferred) const {
  const Tensor dh_TF = exec.empty(saved.gate_TF.shape()), h_TF = exec.empty(saved.gate_TF.shape());
  const Tensor dgate_TF = exec.empty(saved.gate_TF.shape()), dup_TF = exec.empty(saved.gate_TF.shape());
  matmul_backward_input(exec, dy_TD, down_proj.weight_OI, dh_TF);
  swiglu_backward(exec, dh_TF, saved.gate_TF, saved.up_TF, {}, dgate_TF, dup_TF, h_TF, {});
  deferred.down_proj = {h_TF, dy_TD};
  Tensor dx_TD = gate_proj.backward_input(exec, dgate_TF, std::move(saved.gate_proj), deferred.gate_proj);
  dx_TD = up_proj.backward_input(exec, dup_TF, std::move(saved.up_proj), deferred.up_proj, dx_TD);
  saved = {};
  return dx_TD;
}

void Mlp::backward_weight(Exec& exec, Deferred&& deferred, const SampleRows& rows, Mlp& gradient) const {
  gate_proj.backward_weight(exec, std::move(deferred.gate_proj), rows, gradient.gate_proj);
  up_proj.backward_weight(exec, std::move(deferred.up_proj), rows, gradient.up_proj);
  down_proj.backward_weight(exec, std::move(deferred.down_proj), rows, gradient.down_proj);
}

void Mlp::visit(const std::string& prefix, const ParameterVisitor& visitor) {
  gate_proj.visit(prefix + "gate_proj.", visitor);
  up_proj.visit(prefix + "up_proj.", visitor);
  down_proj.visit(prefix + "down_proj.", visitor);
}

void Mlp::visit_products(const ProductWeightVisitor& visitor) {
  for (Linear* linear : {&gate_proj, &up_proj, &down_proj}) linear->visit_products(visitor);
}

}  // namespace moray
