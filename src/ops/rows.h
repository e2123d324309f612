// How the rows of a micro-batch belong to samples. The order of every sum over tokens follows from this
// (docs/numerics.md).
#pragma once

#include "runtime/kernels.h"

namespace moray {

// Dense rows: sample s of the micro-batch holds rows [s·rows_per_sample, (s+1)·rows_per_sample).
struct SampleRows {
  int64_t samples = 0;
  int64_t rows_per_sample = 0;
  int64_t first_sample = 0;     // global index in the batch of this micro-batch's first sample
  int64_t gradient_groups = 1;  // G: sample n of the batch adds into accumulator n mod G

  int64_t rows() const { return samples * rows_per_sample; }
  int64_t group(int64_t sample) const { return (first_sample + sample) % gradient_groups; }
};

// Expert rows: sorted by (expert, sample, token). offsets_ES is i32 [experts·samples + 1]: rows of expert e
// and sample s are [offsets[e·samples + s], offsets[e·samples + s + 1]). The last offset is the number of
// rows.
struct ExpertRows {
  Tensor offsets_ES;
  int64_t experts = 0;
  int64_t samples = 0;

  int64_t begin(int64_t expert, int64_t sample) const {
    return offsets_ES.data<int32_t>()[expert * samples + sample];
  }
  int64_t begin(int64_t expert) const { return begin(expert, 0); }
  int64_t end(int64_t expert) const { return begin(expert + 1, 0); }
};

}  // namespace moray
