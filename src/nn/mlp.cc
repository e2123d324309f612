#include "nn/mlp.h"

namespace moray {

Tensor Mlp::forward(Exec& exec, const Activation& x, Saved& saved) const {
  const Activation ready = gate_proj.input(exec, x);
  if (!precision.recompute_norms) keep_input(exec, ready, saved);
  const Activation gate = gate_proj.product(exec, ready), up = up_proj.product(exec, ready);
  const Tensor h_TF = exec.empty(gate.values.shape());
  swiglu_forward(exec, gate.values, up.values, h_TF);
  const CodeForm form = precision.when_fp8(precision.swiglu_inputs);
  saved.gate = gate.kept(exec, TensorClass::swiglu_inputs, form, precision.scales);
  saved.up = up.kept(exec, TensorClass::swiglu_inputs, form, precision.scales);
  return down_proj.product(exec, h_TF);
}

void Mlp::keep_input(Exec& exec, const Activation& x, Saved& saved) const {
  saved.gate_proj.x = saved.up_proj.x = gate_proj.kept_input(exec, x);
}

Tensor Mlp::backward_input(Exec& exec, const Tensor& dy_TD, Saved&& saved, Deferred& deferred) const {
  const Tensor dh_TF = down_proj.backward_input(exec, dy_TD, {}, deferred.down_proj);
  const Tensor h_TF = exec.empty(dh_TF.shape()), dgate_TF = exec.empty(dh_TF.shape()),
               dup_TF = exec.empty(dh_TF.shape());
  swiglu_backward(exec, dh_TF, saved.gate.numbers(exec), saved.up.numbers(exec), {}, dgate_TF, dup_TF, h_TF,
                  {});
  deferred.down_proj.x = h_TF;
  Tensor dx_TD = gate_proj.backward_input(exec, dgate_TF, std::move(saved.gate_proj), deferred.gate_proj);
  dx_TD = up_proj.backward_input(exec, dup_TF, std::move(saved.up_proj), deferred.up_proj, dx_TD);
  saved = {};
  return dx_TD;
}

void Mlp::backward_weight(Exec& exec, Deferred&& deferred, const SampleRows& rows, Mlp& gradient) const {
  if (gate_proj.fp8())  // one x for both
    deferred.gate_proj.x = deferred.up_proj.x = Activation(
        token_tiles(exec, TensorClass::linear_inputs, deferred.gate_proj.x, rows, precision.scales));
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

void Mlp::set_precision(const Precision& value) {
  precision = value;
  for (Linear* linear : {&gate_proj, &up_proj, &down_proj}) linear->precision = value;
}

}  // namespace moray
