// SwiGLU: h = silu(gate) · up, silu(x) = x · sigmoid(x).
//
// R rows, F width.
#pragma once

#include "ops/rows.h"

namespace moray {

struct SwigluKernels {
  void (*forward)(Exec&, const Tensor& gate_RF, const Tensor& up_RF, const Tensor& h_RF) = nullptr;
  void (*backward)(Exec&, const Tensor& dh_RF, const Tensor& gate_RF, const Tensor& up_RF,
                   const Tensor& router_gate_R, const Tensor& dgate_RF, const Tensor& dup_RF,
                   const Tensor& h_RF, const Tensor& drouter_gate_R) = nullptr;
};

void swiglu_forward(Exec&, const Tensor& gate_RF, const Tensor& up_RF, const Tensor& h_RF);

// dgate, dup from dh; h_RF is recomputed for the weight gradient of the down projection.
//
// In an expert the router's gate g_r scales the row after the down projection, so that with dh' = W_downᵀ ·
// dout (not yet scaled) one pass gives everything: dg_r = Σ_f dh'·h (16 virtual lanes, as in rms_norm.h), dh
// = g_r·dh', and h_RF = g_r·h, which with dout unscaled is what the weight gradient of the down projection
// needs. Without router gates (a dense MLP, the shared expert) router_gate_R and drouter_gate_R are undefined
// and g = 1.
void swiglu_backward(Exec&, const Tensor& dh_RF, const Tensor& gate_RF, const Tensor& up_RF,
                     const Tensor& router_gate_R, const Tensor& dgate_RF, const Tensor& dup_RF,
                     const Tensor& h_RF, const Tensor& drouter_gate_R);

}  // namespace moray
