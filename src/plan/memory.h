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

// Parameters of one rank, told apart by how often they exist.
struct ParameterShare {
  double dense = 0;   // on every data rank
  double expert = 0;  // on one rank of an expert group

  ParameterShare& operator+=(const ParameterShare& other) {
    dense += other.dense;
    expert += other.expert;
    return *this;
  }
  double total() const { return dense + expert; }
};

// One stage without embedding and head.
ParameterShare stage_parameters(const deepseek::ModelConfig& model, const Layout& layout,
                                const StageContent& content);
// All a pipeline rank holds. Embedding and head count at most once each: MTP modules share them.
ParameterShare rank_parameters(const deepseek::ModelConfig& model, const Layout& layout,
                               const std::vector<StageContent>& contents, int64_t rank);

// Ranks that ZeRO cuts a copy of dense or expert parameters over. A stage on two ranks (DualPipe) has twice
// the copies.
double zero_shards(const Layout& layout, bool expert);

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
