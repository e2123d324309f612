#include "ops/swiglu.h"

#include "ops/checks.h"

namespace moray {

void swiglu_forward(Exec& exec, const Tensor& gate_RF, const Tensor& up_RF, const Tensor& h_RF) {
  expect_shape("swiglu_forward", "up", up_RF, gate_RF.shape());
  expect_shape("swiglu_forward", "h", h_RF, gate_RF.shape());
  launch(exec, "swiglu_forward", 0, kernels<SwigluKernels>(exec.device).forward, gate_RF, up_RF, h_RF);
}

void swiglu_backward(Exec& exec, const Tensor& dh_RF, const Tensor& gate_RF, const Tensor& up_RF,
                     const Tensor& router_gate_R, const Tensor& dgate_RF, const Tensor& dup_RF,
                     const Tensor& h_RF, const Tensor& drouter_gate_R) {
  const Tensor* same[] = {&dh_RF, &up_RF, &dgate_RF, &dup_RF, &h_RF};
  for (const Tensor* tensor : same) expect_shape("swiglu_backward", "an argument", *tensor, gate_RF.shape());
  MORAY_CHECK(router_gate_R.defined() == drouter_gate_R.defined());
  if (router_gate_R.defined()) {
    expect_shape("swiglu_backward", "router_gate", router_gate_R, {gate_RF.extent(0)});
    expect_shape("swiglu_backward", "drouter_gate", drouter_gate_R, {gate_RF.extent(0)});
  }
  launch(exec, "swiglu_backward", 0, kernels<SwigluKernels>(exec.device).backward, dh_RF, gate_RF, up_RF,
         router_gate_R, dgate_RF, dup_RF, h_RF, drouter_gate_R);
}

}  // namespace moray
