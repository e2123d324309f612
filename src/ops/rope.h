// Rotary position embedding on interleaved pairs: dimensions (2j, 2j+1) of a head's rotary part turn together
// by the angle position · frequency_j.
//
// P positions, J pairs, T rows, W row width.
#pragma once

#include "ops/rows.h"

namespace moray {

// Where the rotary parts lie in a row: `heads` heads of `head_width` numbers each; the last 2·J of a head
// rotate.
struct RopeLayout {
  int64_t heads = 1;
  int64_t head_width = 0;
};

struct RopeKernels {
  void (*apply)(Exec&, const Tensor& x_TW, const RopeLayout&, const Tensor& cos_PJ, const Tensor& sin_PJ,
                int64_t rows_per_sample, bool inverse) = nullptr;
};

// In place. Row t of a sample is position t mod rows_per_sample. `inverse` turns back: the backward pass.
void rope_apply(Exec&, const Tensor& x_TW, const RopeLayout&, const Tensor& cos_PJ, const Tensor& sin_PJ,
                int64_t rows_per_sample, bool inverse = false);

}  // namespace moray
