#include "nn/experts.h"

namespace moray {

Tensor Experts::forward(Exec& exec, const Tensor& x_RD, const ExpertRows& rows, Saved& saved) const {
  const int64_t count = x_RD.extent(0), width = gate_proj_EFD.extent(1);
  saved = {x_RD, exec.empty({count, width}), exec.empty({count, width})};
  grouped_matmul_forward(exec, x_RD, gate_proj_EFD, rows, saved.gate_RF);
  grouped_matmul_forward(exec, x_RD, up_proj_EFD, rows, saved.up_RF);
  const Tensor h_RF = exec.empty({count, width}), y_RD = exec.empty(x_RD.shape());
  swiglu_forward(exec, saved.gate_RF, saved.up_RF, h_RF);
  grouped_matmul_forward(exec, h_RF, down_proj_EDF, rows, y_RD);
  return y_RD;
}

Tensor Experts::backward_input(Exec& exec, const Tensor& dy_RD, const ExpertRows& rows,
                               const Tensor& router_gate_R, const Tensor& drouter_gate_R, Saved&& saved,
                               Deferred& deferred) const {
  const Shape wide = saved.gate_RF.shape();
  const Tensor dh_RF = exec.empty(wide);
  grouped_matmul_backward_input(exec, dy_RD, down_proj_EDF, rows, dh_RF);
  deferred = {std::move(saved.x_RD), exec.empty(wide), exec.empty(wide), exec.empty(wide), dy_RD};
  swiglu_backward(exec, dh_RF, saved.gate_RF, saved.up_RF, router_gate_R, deferred.dgate_RF, deferred.dup_RF,
                  deferred.h_RF, drouter_gate_R);
  saved = {};
  Tensor dx_RD = exec.empty(dy_RD.shape());
  grouped_matmul_backward_input(exec, deferred.dgate_RF, gate_proj_EFD, rows, dx_RD);
  grouped_matmul_backward_input(exec, deferred.dup_RF, up_proj_EFD, rows, dx_RD, /*accumulate=*/true);
  return dx_RD;
}

void Experts::backward_weight(Exec& exec, Deferred&& deferred, const ExpertRows& rows,
                              Experts& gradient) const {
  grouped_matmul_backward_weight(exec, deferred.dgate_RF, deferred.x_RD, rows, gradient.gate_proj_EFD);
  grouped_matmul_backward_weight(exec, deferred.dup_RF, deferred.x_RD, rows, gradient.up_proj_EFD);
  grouped_matmul_backward_weight(exec, deferred.dy_RD, deferred.h_RF, rows, gradient.down_proj_EDF);
  deferred = {};
}

void Experts::visit(const std::string& prefix, const ParameterVisitor& visitor) {
  visitor(prefix + "{}.gate_proj.weight", gate_proj_EFD, ParameterKind::experts);
  visitor(prefix + "{}.up_proj.weight", up_proj_EFD, ParameterKind::experts);
  visitor(prefix + "{}.down_proj.weight", down_proj_EDF, ParameterKind::experts);
}

void Experts::visit_products(const ProductWeightVisitor& visitor) {
  for (Tensor* weight : {&gate_proj_EFD, &up_proj_EFD, &down_proj_EDF}) visitor(*weight);
}

}  // namespace moray
