// Seconds of a chunk: one stage on one micro-batch, alone or overlapped with another one going back.
#pragma once

#include "plan/stages.h"

namespace moray::plan {

struct ChunkTime {
  double seconds = 0;
  double compute = 0;  // kernels
  double exposed = 0;  // communication nothing hid
};

// Communication waits for nothing but its phase; alone there is nothing to hide it under, except that the
// whole backward pass runs weight gradients meanwhile.
ChunkTime forward_alone(const StageWork& stage, const Machine& machine);
ChunkTime backward_alone(const StageWork& stage, const Machine& machine);  // input and weight gradients
ChunkTime backward_input_alone(const StageWork& stage, const Machine& machine);
ChunkTime backward_weight_alone(const StageWork& stage, const Machine& machine);

// A forward chunk overlapped with a backward one of another micro-batch.
ChunkTime overlapped_pair(const StageWork& forward, const StageWork& backward, const Machine& machine);

}  // namespace moray::plan
