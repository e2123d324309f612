// Bytes a rank holds at its peak (facts §3, 4; report §3.2.3): weights, gradients, optimizer, activations by
// kind, buffers.
#pragma once

#include <string>
#include <vector>

#include "plan/stages.h"

namespace moray::plan {

// Kept for the backward pass, bytes a layer and micro-batch on one rank.
struct LayerActivations {
  double residual = 0;        // inputs of the two norms, BF16
  double norms = 0;           // their outputs, unless recomputed
  double latents = 0;         // of queries, keys and values before their norms, BF16
  double attention_core = 0;  // q, k, v unless recomputed, and the softmax's row sums
  double attention_out = 0;   // input of the output projection: E5M6 in FP8 runs
  double expert_rows = 0;     // rows as they arrived at the experts (dense MLP: its input)
  double swiglu_in = 0;
  double swiglu_out = 0;  // unless recomputed
  double total() const {
    return residual + norms + latents + attention_core + attention_out + expert_rows + swiglu_in + swiglu_out;
  }
};
LayerActivations layer_activations(const deepseek::ModelConfig& model, const Layout& layout, bool is_moe,
                                   const Imbalance& imbalance);

struct RankMemory {
  double parameters = 0;   // BF16, both stages of a rank
  double gradients = 0;    // FP32
  double optimizer = 0;    // FP32 master weights and two moments
  double activations = 0;  // of all micro-batches in flight at the peak
  double buffers = 0;      // dispatch and combine, collectives, the logits, the framework
  double in_flight = 0;    // chunks whose activations are held
  double total() const { return parameters + gradients + optimizer + activations + buffers; }
};

// Of pipeline rank `rank`; `contents` as from cut_stages. A stage held by two ranks shares its optimizer
// between them.
RankMemory rank_memory(const deepseek::ModelConfig& model, const Layout& layout, const Imbalance& imbalance,
                       const std::vector<StageContent>& contents, int64_t rank);

struct MemoryPlan {
  std::vector<RankMemory> ranks;  // by pipeline rank
  size_t worst = 0;               // the rank with most
};
MemoryPlan plan_memory(const deepseek::ModelConfig& model, const Layout& layout, const Imbalance& imbalance,
                       const std::vector<StageContent>& contents);

// What a choice of the layout saves on the worst rank: the total without it minus the total with it.
struct MemorySaving {
  std::string choice;
  double bytes = 0;
};
std::vector<MemorySaving> memory_savings(const deepseek::ModelConfig& model, const Layout& layout,
                                         const Imbalance& imbalance,
                                         const std::vector<StageContent>& contents);

}  // namespace moray::plan
