#include "ops/cross_entropy.h"

#include "ops/checks.h"

namespace moray {

namespace {
void expect_targets(const Tensor& targets_T, int64_t vocabulary) {
  const std::span<const int32_t> targets = targets_T.span<int32_t>();
  for (size_t t = 0; t < targets.size(); ++t)
    if (targets[t] >= vocabulary)
      fail("target {} at position {} is beyond the vocabulary of {}", targets[t], t, vocabulary);
}

// The logits; each of the two gradients costs the same again.
double product_flops(const Tensor& h_TD, const Tensor& w_VD) {
  return 2.0 * static_cast<double>(h_TD.elements() * w_VD.extent(0));
}
}  // namespace

void cross_entropy_forward(Exec& exec, const Tensor& h_TD, const Tensor& w_VD, const Tensor& targets_T,
                           const Tensor& loss_T) {
  expect_shape("cross_entropy_forward", "w", w_VD, {w_VD.extent(0), h_TD.extent(1)});
  expect_shape("cross_entropy_forward", "targets", targets_T, {h_TD.extent(0)});
  expect_shape("cross_entropy_forward", "loss", loss_T, {h_TD.extent(0)});
  expect_targets(targets_T, w_VD.extent(0));
  launch(exec, "cross_entropy_forward", product_flops(h_TD, w_VD),
         kernels<CrossEntropyKernels>(exec.device).forward, h_TD, w_VD, targets_T, loss_T);
}

void cross_entropy_forward_backward(Exec& exec, const Tensor& h_TD, const Tensor& w_VD,
                                    const Tensor& targets_T, const SampleRows& rows, double gradient_scale,
                                    const Tensor& loss_T, const Tensor& dh_TD, const Tensor& dw_GVD) {
  const char* op = "cross_entropy_forward_backward";
  expect_rows(op, rows, h_TD.extent(0));
  expect_shape(op, "w", w_VD, {w_VD.extent(0), h_TD.extent(1)});
  expect_shape(op, "targets", targets_T, {h_TD.extent(0)});
  expect_shape(op, "loss", loss_T, {h_TD.extent(0)});
  expect_shape(op, "dh", dh_TD, h_TD.shape());
  expect_shape(op, "dw", dw_GVD, {rows.gradient_groups, w_VD.extent(0), w_VD.extent(1)});
  expect_targets(targets_T, w_VD.extent(0));
  launch(exec, op, 3 * product_flops(h_TD, w_VD), kernels<CrossEntropyKernels>(exec.device).forward_backward,
         h_TD, w_VD, targets_T, rows, gradient_scale, loss_T, dh_TD, dw_GVD);
}

}  // namespace moray
