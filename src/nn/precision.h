// What numbers the layers of a training run compute with: a recipe's `train.precision` and the keys under it,
// resolved.
#pragma once

#include "nn/parameters.h"

namespace moray {

enum class PrecisionKind : uint8_t { f32, bf16 };

struct Precision {
  PrecisionKind kind = PrecisionKind::f32;

  // Of activations and their gradients. What never is narrower than FP32: the router but for its input,
  // norms' weights and statistics, losses, gradients of weights, master weights.
  DType activations() const { return kind == PrecisionKind::f32 ? DType::f32 : DType::bf16; }
};

// Calls with every weight that a matrix product of the model's precision reads (linear layers, experts,
// head): the router's is not among them, nor are norms and embedding.
using ProductWeightVisitor = std::function<void(Tensor& weight)>;

}  // namespace moray
