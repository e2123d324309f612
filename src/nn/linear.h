// A linear layer without bias: y = x · weightᵀ.
//
// T rows, I inputs, O outputs, G gradient groups.
#pragma once

#include "nn/precision.h"
#include "ops/matmul.h"

namespace moray {

struct Linear {
  Tensor weight_OI;

  struct Saved {
    Tensor x_TI;
  };
  struct Deferred {
    Tensor x_TI, dy_TO;
  };

  Tensor forward(Exec&, const Tensor& x_TI, Saved&) const;
  // dx; when `dx_TI` is defined the product is added to it and it is returned.
  Tensor backward_input(Exec&, const Tensor& dy_TO, Saved&&, Deferred&, Tensor dx_TI = {}) const;
  void backward_weight(Exec&, Deferred&&, const SampleRows&, Linear& gradient) const;
  void visit(const std::string& prefix, const ParameterVisitor&);
  void visit_products(const ProductWeightVisitor&);
};

}  // namespace moray
