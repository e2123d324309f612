// A model of random weights, for measuring speed where no checkpoint is at hand.
#pragma once

#include "serve/served_model.h"

namespace moray {

// Matrices of `dtype` (f32, bf16 or f8_e4m3; tables bf16 for f8_e4m3), evenly distributed with the deviation
// 1/sqrt(inputs), so that states keep their size; norms are 1, routers f32. The same numbers for any number
// of threads.
ServedModel random_model(Exec&, const deepseek::ModelConfig&, DType dtype);

// Bytes of weights that one decoded token reads: chosen and shared experts, no embedding.
double bytes_a_token(const ServedModel&);

}  // namespace moray
