// A whole training step: the schedule's timeline, then gradients and optimizer.
#pragma once

#include <memory>
#include <vector>

#include "parallel/timeline.h"
#include "plan/chunk_times.h"

namespace moray::plan {

struct StepPlan {
  double seconds = 0;
  double pipeline_seconds = 0;
  double gradient_seconds = 0;   // reduction of gradients and gathering of new weights, nothing beside it
  double optimizer_seconds = 0;  // AdamW on this rank's shard
  // Of the slowest rank's pipeline time:
  double compute_seconds = 0;
  double exposed_seconds = 0;  // communication nothing hid
  double gap_seconds = 0;      // between kernels
  double bubble_seconds = 0;   // waiting
  size_t slowest_rank = 0;     // the one with least bubble
  double tokens_a_second_a_gpu = 0;
  double model_flops_a_second_a_gpu = 0;
  double mfu_bf16 = 0, mfu_fp8 = 0;  // share of the dense peak; fp8 0 where there is none
  std::vector<StageContent> stages;
  // Kept for pictures and traces.
  std::shared_ptr<const Schedule> schedule;
  std::shared_ptr<const Timeline> timeline;
};

// The ranks of a pipeline position do the same at the same time, so one pipeline of `layout.pipeline` ranks
// stands for all; imbalance holds the slowest of each expert group back. The layout must have no objection().
StepPlan simulate_step(const deepseek::ModelConfig& model, const Layout& layout, const Cluster& cluster,
                       const KernelRates& rates, const Imbalance& imbalance);

}  // namespace moray::plan
