#include "nn/experts.h"

#include "ops/matmul_fp8.h"

namespace moray {

namespace {

// A stack of weights as its products read it.
struct Weight {
  const Tensor& values;
  const QuantizedTensor& codes;
  bool fp8() const { return codes.codes.defined(); }
};

Tensor multiply(Exec& exec, const Activation& x, const Weight& w, const ExpertRows& rows) {
  Tensor y_RO = exec.empty({x.rows(), w.values.extent(1)});
  if (w.fp8())
    grouped_matmul_fp8_forward(exec, x.codes, w.codes, rows, y_RO);
  else
    grouped_matmul_forward(exec, x.values, w.values, rows, y_RO);
  return y_RO;
}

// dx = dy · w, added to dx_RI where it is defined.
Tensor multiply_back(Exec& exec, const Activation& dy, const Weight& w, const ExpertRows& rows,
                     Tensor dx_RI = {}) {
  const bool accumulate = dx_RI.defined();
  if (!accumulate) dx_RI = exec.empty({dy.rows(), w.values.extent(2)});
  if (w.fp8())
    grouped_matmul_fp8_backward_input(exec, dy.codes, w.codes, rows, dx_RI, accumulate);
  else
    grouped_matmul_backward_input(exec, dy.values, w.values, rows, dx_RI, accumulate);
  return dx_RI;
}

}  // namespace

Tensor Experts::forward(Exec& exec, const Activation& x, const ExpertRows& rows, Saved& saved) const {
  // Rows may come as codes to experts whose products are in BF16.
  const auto ready = [&](const Activation& a) {
    return fp8() ? a.with_codes(exec, TensorClass::linear_inputs, precision.scales)
                 : Activation(a.numbers(exec));
  };
  const Activation x_ready = ready(x);
  const Activation gate = multiply(exec, x_ready, {gate_proj_EFD, gate_proj_fp8}, rows);
  const Activation up = multiply(exec, x_ready, {up_proj_EFD, up_proj_fp8}, rows);
  // What was sent as codes is kept as it came.
  const CodeForm inputs = precision.when_fp8(precision.linear_inputs);
  saved.x = x.has_codes() ? x : x_ready.kept(exec, TensorClass::linear_inputs, inputs, precision.scales);
  const Tensor h_RF = exec.empty(gate.values.shape());
  swiglu_forward(exec, gate.values, up.values, h_RF);
  const CodeForm form = precision.when_fp8(precision.swiglu_inputs);
  saved.gate = gate.kept(exec, TensorClass::swiglu_inputs, form, precision.scales);
  saved.up = up.kept(exec, TensorClass::swiglu_inputs, form, precision.scales);
  return multiply(exec, ready(h_RF), {down_proj_EDF, down_proj_fp8}, rows);
}

Tensor Experts::backward_input(Exec& exec, const Activation& dy, const ExpertRows& rows,
                               const Tensor& router_gate_R, const Tensor& drouter_gate_R, Saved&& saved,
                               Deferred& deferred) const {
  const auto ready = [&](const Activation& a) {
    return fp8() ? a.with_codes(exec, TensorClass::output_gradients, precision.scales)
                 : Activation(a.numbers(exec));
  };
  const Tensor dh_RF = multiply_back(exec, ready(dy), {down_proj_EDF, down_proj_fp8}, rows);
  const Tensor dgate_RF = exec.empty(dh_RF.shape()), dup_RF = exec.empty(dh_RF.shape()),
               h_RF = exec.empty(dh_RF.shape());
  swiglu_backward(exec, dh_RF, saved.gate.numbers(exec), saved.up.numbers(exec), router_gate_R, dgate_RF,
                  dup_RF, h_RF, drouter_gate_R);
  deferred = {std::move(saved.x), dgate_RF, dup_RF, h_RF, dy};
  saved = {};
  const Tensor dx_RD = multiply_back(exec, ready(dgate_RF), {gate_proj_EFD, gate_proj_fp8}, rows);
  return multiply_back(exec, ready(dup_RF), {up_proj_EFD, up_proj_fp8}, rows, dx_RD);
}

void Experts::backward_weight(Exec& exec, Deferred&& deferred, const ExpertRows& rows,
                              Experts& gradient) const {
  if (!fp8()) {
    const Tensor x_RD = deferred.x.numbers(exec);
    grouped_matmul_backward_weight(exec, deferred.dgate.values, x_RD, rows, gradient.gate_proj_EFD);
    grouped_matmul_backward_weight(exec, deferred.dup.values, x_RD, rows, gradient.up_proj_EFD);
    grouped_matmul_backward_weight(exec, deferred.dy.numbers(exec), deferred.h.values, rows,
                                   gradient.down_proj_EDF);
  } else {
    const auto tiles = [&](TensorClass tensor_class, const Activation& a) {
      return token_tiles(exec, tensor_class, a, rows, precision.scales);
    };
    const QuantizedTensor x_RD = tiles(TensorClass::linear_inputs, deferred.x);
    grouped_matmul_fp8_backward_weight(exec, tiles(TensorClass::output_gradients, deferred.dgate), x_RD, rows,
                                       gradient.gate_proj_EFD);
    grouped_matmul_fp8_backward_weight(exec, tiles(TensorClass::output_gradients, deferred.dup), x_RD, rows,
                                       gradient.up_proj_EFD);
    grouped_matmul_fp8_backward_weight(exec, tiles(TensorClass::output_gradients, deferred.dy),
                                       tiles(TensorClass::linear_inputs, deferred.h), rows,
                                       gradient.down_proj_EDF);
  }
  deferred = {};
}

void Experts::visit(const std::string& prefix, const ParameterVisitor& visitor) {
  visitor(prefix + "{}.gate_proj.weight", gate_proj_EFD, ParameterKind::experts);
  visitor(prefix + "{}.up_proj.weight", up_proj_EFD, ParameterKind::experts);
  visitor(prefix + "{}.down_proj.weight", down_proj_EDF, ParameterKind::experts);
}

void Experts::visit_products(const ProductWeightVisitor& visitor) {
  visitor(gate_proj_EFD, precision.fp8() ? &gate_proj_fp8 : nullptr);
  visitor(up_proj_EFD, precision.fp8() ? &up_proj_fp8 : nullptr);
  visitor(down_proj_EDF, precision.fp8() ? &down_proj_fp8 : nullptr);
}

}  // namespace moray
