// RMSNorm as a layer.
//
// T rows, D width, G gradient groups.
#pragma once

#include "nn/parameters.h"
#include "ops/rms_norm.h"

namespace moray {

struct RmsNorm {
  Tensor weight_D;
  double eps = 1e-6;

  struct Saved {
    Tensor x_TD, rstd_T;
  };
  struct Deferred {
    Tensor x_TD, rstd_T, dy_TD;
  };

  Tensor forward(Exec&, const Tensor& x_TD, Saved&) const;
  Tensor output(Exec&, const Saved&) const;  // what forward returned, computed again
  // dx; when `dx_TD` is defined the gradient is added to it and it is returned.
  Tensor backward_input(Exec&, const Tensor& dy_TD, Saved&&, Deferred&, Tensor dx_TD = {}) const;
  void backward_weight(Exec&, Deferred&&, const SampleRows&, RmsNorm& gradient) const;
  void visit(const std::string& prefix, const ParameterVisitor&);
};

}  // namespace moray
