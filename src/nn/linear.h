// A linear layer without bias: y = x · weightᵀ. Where the weight has codes all three products run in FP8
// (report §3.3): inputs and output gradients by tiles of 1×128, for the weight's gradient by 128×1.
//
// T rows, I inputs, O outputs, G gradient groups.
#pragma once

#include "nn/activation.h"
#include "ops/matmul.h"

namespace moray {

struct Linear {
  Tensor weight_OI;
  QuantizedTensor weight_fp8 = {};  // blocks
  Precision precision = {};

  struct Saved {
    Activation x;
  };
  struct Deferred {
    Activation x;
    Tensor dy_TO;
  };

  bool fp8() const { return weight_fp8.codes.defined(); }
  // Ready for the products of this layer and its siblings: quantized once for all that read it.
  Activation input(Exec&, const Activation& x) const;
  // What is kept of an input for W.
  Activation kept_input(Exec&, const Activation& x) const;

  Tensor product(Exec&, const Activation& x) const;  // y; keeps nothing
  Tensor forward(Exec&, const Activation& x, Saved&) const;
  // dx; when `dx_TI` is defined the product is added to it and it is returned.
  Tensor backward_input(Exec&, const Tensor& dy_TO, Saved&&, Deferred&, Tensor dx_TI = {}) const;
  void backward_weight(Exec&, Deferred&&, const SampleRows&, Linear& gradient) const;
  void visit(const std::string& prefix, const ParameterVisitor&);
  void visit_products(const ProductWeightVisitor&);
};

}  // namespace moray
