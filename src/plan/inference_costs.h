// Seconds of the phases of one layer while serving, on the GPU every other waits for.
#pragma once

#include <array>
#include <functional>
#include <vector>

#include "plan/inference.h"

namespace moray::plan {

using PhaseSeconds = std::array<double, kBlockPhases>;  // by BlockPhase

// `rows`: tokens a GPU and micro-batch. A dense layer has its MLP as experts and no dispatch, no combine.
PhaseSeconds prefill_phases(const deepseek::ModelConfig& model, const Deployment& deployment,
                            const Machine& machine, const ServingRates& serving, double rows, bool is_moe);
// `requests`: a GPU and micro-batch.
PhaseSeconds decode_phases(const deepseek::ModelConfig& model, const Deployment& deployment,
                           const Machine& machine, const ServingRates& serving, double requests, bool is_moe);

// All layers, dense ones in sequence, the others as `overlap` lays two micro-batches, or one alone.
double layers_seconds(const deepseek::ModelConfig& model, const Deployment& deployment,
                      std::vector<OverlapSlot> (*overlap)(int), const PhaseSeconds& moe,
                      const PhaseSeconds& dense);

// The output head on one micro-batch: BF16 weights, read whole.
double head_seconds(const deepseek::ModelConfig& model, const Machine& machine, const ServingRates& serving);

// Routed experts with copies and, unless every GPU holds them, shared ones.
int64_t expert_slots(const deepseek::ModelConfig& model, const Deployment& deployment);

ServingMemory prefill_memory(const deepseek::ModelConfig& model, const Deployment& deployment);
ServingMemory decode_memory(const deepseek::ModelConfig& model, const Deployment& deployment);

}  // namespace moray::plan
