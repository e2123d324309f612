// The routed experts: SwiGLU MLPs over the rows dispatched to each, in grouped products. Dropless: every row
// is computed whatever the skew.
//
// R expert rows, D hidden, F moe_intermediate_size, E experts.
#pragma once

#include "nn/precision.h"
#include "ops/matmul.h"
#include "ops/permute.h"
#include "ops/swiglu.h"

namespace moray {

struct Experts {
  Tensor gate_proj_EFD, up_proj_EFD, down_proj_EDF;

  struct Saved {
    Tensor x_RD, gate_RF, up_RF;  // h is recomputed in the backward pass
  };
  struct Deferred {
    Tensor x_RD, dgate_RF, dup_RF, h_RF, dy_RD;
  };

  Tensor forward(Exec&, const Tensor& x_RD, const ExpertRows&, Saved&) const;
  // dy_RD is the gradient of the combined output, not yet scaled by the router's gates; router_gate_R are
  // those gates. Returns dx_RD and fills drouter_gate_R.
  Tensor backward_input(Exec&, const Tensor& dy_RD, const ExpertRows&, const Tensor& router_gate_R,
                        const Tensor& drouter_gate_R, Saved&&, Deferred&) const;
  void backward_weight(Exec&, Deferred&&, const ExpertRows&, Experts& gradient) const;
  void visit(const std::string& prefix, const ParameterVisitor&);
  void visit_products(const ProductWeightVisitor&);
};

}  // namespace moray
