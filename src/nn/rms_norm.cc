#include "nn/rms_norm.h"

namespace moray {

Tensor RmsNorm::forward(Exec& exec, const Tensor& x_TD, Saved& saved) const {
  saved = {x_TD, exec.empty_wide({x_TD.extent(0)})};
  Tensor y_TD = exec.empty(x_TD.shape());
  rms_norm_forward(exec, x_TD, weight_D, eps, y_TD, saved.rstd_T);
  return y_TD;
}

Tensor RmsNorm::output(Exec& exec, const Saved& saved) const {
  Saved again;
  return forward(exec, saved.x_TD, again);
}

Tensor RmsNorm::backward_input(Exec& exec, const Tensor& dy_TD, Saved&& saved, Deferred& deferred,
                               Tensor dx_TD) const {
  const bool accumulate = dx_TD.defined();
  if (!accumulate) dx_TD = exec.empty(dy_TD.shape());
  rms_norm_backward_input(exec, dy_TD, saved.x_TD, weight_D, saved.rstd_T, dx_TD, accumulate);
  deferred = {std::move(saved.x_TD), std::move(saved.rstd_T), dy_TD};
  return dx_TD;
}

void RmsNorm::backward_weight(Exec& exec, Deferred&& deferred, const SampleRows& rows,
                              RmsNorm& gradient) const {
  rms_norm_backward_weight(exec, deferred.dy_TD, deferred.x_TD, deferred.rstd_T, rows, gradient.weight_D);
  deferred = {};
}

void RmsNorm::visit(const std::string& prefix, const ParameterVisitor& visitor) {
  visitor(prefix + "weight", weight_D, ParameterKind::vector);
}

}  // namespace moray
