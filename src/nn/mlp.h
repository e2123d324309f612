// The SwiGLU MLP: down(silu(gate(x)) · up(x)). Dense layers have one; in MoE layers it is the shared experts,
// which are one MLP of width n_shared_experts · moe_intermediate_size.
//
// T rows, D hidden, F intermediate width.
#pragma once

#include "nn/linear.h"
#include "ops/swiglu.h"

namespace moray {

struct Mlp {
  Linear gate_proj, up_proj, down_proj;
  Precision precision = {};

  struct Saved {
    Linear::Saved gate_proj, up_proj;
    Activation gate, up;  // h is recomputed in the backward pass
  };
  struct Deferred {
    Linear::Deferred gate_proj, up_proj, down_proj;
  };

  // Keeps no x with precision.recompute_norms: whoever computes it again hands it to keep_input() before B.
  Tensor forward(Exec&, const Activation& x, Saved&) const;
  void keep_input(Exec&, const Activation& x, Saved&) const;
  Tensor backward_input(Exec&, const Tensor& dy_TD, Saved&&, Deferred&) const;
  void backward_weight(Exec&, Deferred&&, const SampleRows&, Mlp& gradient) const;
  void visit(const std::string& prefix, const ParameterVisitor&);
  void visit_products(const ProductWeightVisitor&);
  void set_precision(const Precision&);
};

}  // namespace moray
