// The optimizer's arithmetic: AdamW in one pass, sums of squares for the gradient norm, the moving average of
// weights.
#pragma once

#include "ops/rows.h"

namespace moray {

struct AdamWStep {
  double learning_rate = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
  double weight_decay = 0;
  int64_t step = 1;           // counts from 1; bias correction is 1 − βˢᵗᵉᵖ
  double gradient_scale = 1;  // the clip: min(1, clip / norm)
};

struct AdamWKernels {
  void (*update)(Exec&, const AdamWStep&, const Tensor& gradient, const Tensor& weight, const Tensor& m,
                 const Tensor& v) = nullptr;
  void (*squares)(Exec&, const Tensor& x, const Tensor& squares_B) = nullptr;
  void (*ema)(Exec&, const Tensor& weight, double decay, const Tensor& average) = nullptr;
};

// m = β1·m + (1−β1)·g, v = β2·v + (1−β2)·g², w −= lr·(m̂/(sqrt(v̂)+eps) + weight_decay·w), with g =
// gradient_scale · gradient. weight and gradient f32, the moments f32 or bf16 (rounded to nearest even after
// the update that used them in f32).
void adamw_update(Exec&, const AdamWStep&, const Tensor& gradient, const Tensor& weight, const Tensor& m,
                  const Tensor& v);

constexpr int64_t kNormBlock = 4096;
// squares_B[b] (f32) = Σ x² over elements [4096·b, 4096·(b+1)) in 16 virtual lanes, as in rms_norm.h.
void squares_of_blocks(Exec&, const Tensor& x, const Tensor& squares_B);

// average += (1 − decay) · (weight − average)
void ema_update(Exec&, const Tensor& weight, double decay, const Tensor& average);

}  // namespace moray
