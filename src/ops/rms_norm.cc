#include "ops/rms_norm.h"

#include "ops/checks.h"

namespace moray {

namespace {
const RmsNormKernels& slot(const Exec& exec) {
  return kernels<RmsNormKernels>(exec.device);
}
}  // namespace

void rms_norm_forward(Exec& exec, const Tensor& x_TD, const Tensor& w_D, double eps, const Tensor& y_TD,
                      const Tensor& rstd_T) {
  expect_shape("rms_norm_forward", "w", w_D, {x_TD.extent(1)});
  expect_shape("rms_norm_forward", "y", y_TD, x_TD.shape());
  expect_shape("rms_norm_forward", "rstd", rstd_T, {x_TD.extent(0)});
  launch(exec, "rms_norm_forward", 0, slot(exec).forward, x_TD, w_D, eps, y_TD, rstd_T);
}

void rms_norm_backward_input(Exec& exec, const Tensor& dy_TD, const Tensor& x_TD, const Tensor& w_D,
                             const Tensor& rstd_T, const Tensor& dx_TD, bool accumulate) {
  expect_shape("rms_norm_backward_input", "dy", dy_TD, x_TD.shape());
  expect_shape("rms_norm_backward_input", "w", w_D, {x_TD.extent(1)});
  expect_shape("rms_norm_backward_input", "rstd", rstd_T, {x_TD.extent(0)});
  expect_shape("rms_norm_backward_input", "dx", dx_TD, x_TD.shape());
  launch(exec, "rms_norm_backward_input", 0, slot(exec).backward_input, dy_TD, x_TD, w_D, rstd_T, dx_TD,
         accumulate);
}

void rms_norm_backward_weight(Exec& exec, const Tensor& dy_TD, const Tensor& x_TD, const Tensor& rstd_T,
                              const SampleRows& rows, const Tensor& dw_GD) {
  expect_rows("rms_norm_backward_weight", rows, x_TD.extent(0));
  expect_shape("rms_norm_backward_weight", "dy", dy_TD, x_TD.shape());
  expect_shape("rms_norm_backward_weight", "rstd", rstd_T, {x_TD.extent(0)});
  expect_shape("rms_norm_backward_weight", "dw", dw_GD, {rows.gradient_groups, x_TD.extent(1)});
  launch(exec, "rms_norm_backward_weight", 0, slot(exec).backward_weight, dy_TD, x_TD, rstd_T, rows, dw_GD);
}

}  // namespace moray
