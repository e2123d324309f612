// Analytic gradients against central differences, in float64.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace moray {

struct NamedGradient {
  std::string name;
  Tensor value;     // f64, what the loss reads; changed during the check and put back
  Tensor gradient;  // f64, ∂loss/∂value as the code under test computed it
};

struct GradientCheckOptions {
  // The finite difference's step as a share of the tensor's root mean square (of 1 for a tensor of zeros).
  // The stencil has six points, whose error is step⁶·f⁽⁷⁾/140, so that steps may be large enough to drown
  // rounding.
  double step = 0.02;
  // Larger tensors are checked in this many elements (half of them those with the largest gradients, half at
  // random) and along `directions` random directions, which see every element at once.
  int64_t max_elements = 48;
  int directions = 4;
  uint64_t seed = 1;
};

struct GradientError {
  std::string name;
  double error = 0;  // ‖g − ĝ‖ / ‖ĝ‖, the worse of elements and directions; 0 where both drown in rounding
  double norm = 0;      // ‖ĝ‖ over what was checked
  int64_t checked = 0;  // elements looked at one by one
};

// One result a tensor, in order. `loss` must be a function of the values alone (routing, masks and targets
// held fixed).
std::vector<GradientError> check_gradients(std::span<const NamedGradient> gradients,
                                           const std::function<double()>& loss,
                                           const GradientCheckOptions& options = {});

// As a GoogleTest expectation on every tensor; also that no gradient is zero, which would check nothing.
void expect_gradients(const std::vector<NamedGradient>& gradients, const std::function<double()>& loss,
                      double tolerance = 1e-6, const GradientCheckOptions& options = {});

}  // namespace moray
