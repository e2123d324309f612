// The optimizer step: gradients joined in their fixed order, clipped by their global norm, AdamW with decay
// on matrices only, and the moving average of the weights.
//
// G gradient groups.
#pragma once

#include "models/deepseek/model.h"
#include "ops/adamw.h"

namespace moray {

struct OptimizerConfig {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
  double weight_decay = 0.1;  // on matrices, experts and tables; not on norms
  double clip_norm = 1.0;     // 0: no clipping
  DType moment_dtype = DType::f32;
};

// Joins the accumulators of every parameter into the first: groups by a binary tree over the group index; for
// embedding and head, the main model's first, then the MTP depths in order. Afterwards joined_gradient() is
// the gradient.
void join_gradients(Exec&, deepseek::Model& gradients, int64_t gradient_groups);
Tensor joined_gradient(const Parameter& gradient);

// The global norm: FP32 sums of squares over blocks of 4096 elements of each Hugging Face tensor, blocks and
// then tensors joined by a binary tree.
double gradient_norm(Exec&, deepseek::Model& gradients);

class Optimizer {
 public:
  Optimizer(const Exec&, deepseek::Model& model, const OptimizerConfig&);

  // One AdamW step with joined gradients of norm `norm`.
  void step(Exec&, deepseek::Model& model, deepseek::Model& gradients, double learning_rate, double norm);

  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }
  deepseek::Model& first_moments() { return m_; }
  deepseek::Model& second_moments() { return v_; }

 private:
  OptimizerConfig config_;
  deepseek::Model m_, v_;
  int64_t steps_ = 0;
};

}  // namespace moray
