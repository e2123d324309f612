// The weights as the products of a training step read them, made once per optimizer step and shared by its
// micro-batches.
#pragma once

#include "models/deepseek/model.h"

namespace moray::deepseek {

// A tree beside the FP32 master weights: it shares their tensors but for those that `precision` narrows.
Model allocate_compute_copy(const Exec&, Model& master, const Precision&);

// Rounds the masters, as they are now, into the copy.
void refresh_compute_copy(Exec&, Model& master, Model& copy);

}  // namespace moray::deepseek
