// A model as it is served: the tree of models/deepseek with tensors in the types a folder stores them in, and
// a second tree with the scales of FP8 ones.
#pragma once

#include "ops/weight_matmul.h"
#include "serve/weight_plan.h"

namespace moray {

struct ServedModel {
  deepseek::Model model;
  deepseek::Model scales;  // defined where the model's tensor holds codes
};

// Progress of a long load: bytes done.
using LoadProgress = std::function<void(size_t)>;

// Whether products with a parameter of the model tree read it in panels. Not what is looked up or folded by
// rows: the embedding, kv_b_proj.
bool lies_in_panels(const Parameter&);

// Puts weights that lie in rows into panels, all threads at once, where they are.
void pack_weights(Exec&, ServedModel&);

// The plan's tensors, uninitialised, in the layouts they are served in.
ServedModel allocate_weights(Exec&, const WeightPlan&);

// Reads what was planned, all threads at once, into panels where they serve. Throws Error for FP8 codes that
// are NaN, 8-bit codes that are −128, scales that are no scales, and norms, routers and biases that are not
// finite: NaN there chooses experts without a trace in the logits.
ServedModel load_weights(Exec&, const SafetensorsFolder&, const WeightPlan&, const LoadProgress& = {});

// A model in training's form, f32, shared and not copied.
ServedModel serve_trained(const deepseek::Model&);

inline StoredWeight stored_weight(const Linear& layer, const Linear& scales) {
  return {layer.weight_OI, scales.weight_OI, 0};
}

}  // namespace moray
