// The routed experts: SwiGLU MLPs over the rows dispatched to each, in grouped products. Dropless: every row
// is computed whatever the skew. Where the weights have codes the products run in FP8, as in nn/linear.h.
//
// R expert rows, D hidden, F moe_intermediate_size, E experts.
#pragma once

#include "nn/activation.h"
#include "ops/matmul.h"
#include "ops/permute.h"
#include "ops/swiglu.h"

namespace moray {

struct Experts {
  Tensor gate_proj_EFD, up_proj_EFD, down_proj_EDF;
  QuantizedTensor gate_proj_fp8 = {}, up_proj_fp8 = {}, down_proj_fp8 = {};  // blocks: products in FP8
  Precision precision = {};

  struct Saved {
    Activation x, gate, up;  // h is recomputed in the backward pass
  };
  struct Deferred {
    Activation x, dgate, dup, h, dy;
  };

  bool fp8() const { return gate_proj_fp8.codes.defined(); }
  Tensor forward(Exec&, const Activation& x, const ExpertRows&, Saved&) const;
  // dy is the gradient of the combined output, not yet scaled by the router's gates; router_gate_R are
  // those gates. Returns dx_RD and fills drouter_gate_R.
  Tensor backward_input(Exec&, const Activation& dy, const ExpertRows&, const Tensor& router_gate_R,
                        const Tensor& drouter_gate_R, Saved&&, Deferred&) const;
  void backward_weight(Exec&, Deferred&&, const ExpertRows&, Experts& gradient) const;
  void visit(const std::string& prefix, const ParameterVisitor&);
  void visit_products(const ProductWeightVisitor&);
};

}  // namespace moray
