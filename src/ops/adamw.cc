#include "ops/adamw.h"

#include "ops/checks.h"

namespace moray {

namespace {
const AdamWKernels& slot(const Exec& exec) {
  return kernels<AdamWKernels>(exec.device);
}
}  // namespace

void adamw_update(Exec& exec, const AdamWStep& step, const Tensor& gradient, const Tensor& weight,
                  const Tensor& m, const Tensor& v) {
  expect_shape("adamw_update", "weight", weight, gradient.shape());
  expect_shape("adamw_update", "m", m, gradient.shape());
  expect_shape("adamw_update", "v", v, gradient.shape());
  MORAY_CHECK(m.dtype() == v.dtype());
  launch(exec, "adamw_update", 0, slot(exec).update, step, gradient, weight, m, v);
}

void squares_of_blocks(Exec& exec, const Tensor& x, const Tensor& squares_B) {
  expect_shape("squares_of_blocks", "squares", squares_B, {(x.elements() + kNormBlock - 1) / kNormBlock});
  launch(exec, "squares_of_blocks", 0, slot(exec).squares, x, squares_B);
}

void ema_update(Exec& exec, const Tensor& weight, double decay, const Tensor& average) {
  expect_shape("ema_update", "average", average, weight.shape());
  launch(exec, "ema_update", 0, slot(exec).ema, weight, decay, average);
}

}  // namespace moray
