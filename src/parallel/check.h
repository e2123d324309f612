// A model checker for pipeline schedules: what must hold of any of them before an executor may run it.
#pragma once

#include <string>
#include <vector>

#include "parallel/schedule.h"

namespace moray {

struct CheckOptions {
  // Messages a sender may have under way to one peer, of one kind, before it waits for the receiver. 0: a
  // send waits for its own receive.
  int buffers = 1;
  // Consecutive sends and receives are posted together; false: they complete one by one, in order.
  bool batched = true;
  int most_live = 0;  // limit of PeakActivations::live on every rank; 0: none
};

// The most (micro-batch, chunk)s at one time of which a rank holds activations. A pair counts both of its
// micro-batches.
struct PeakActivations {
  int live = 0;      // from F to the end of its W (or whole B)
  int saved = 0;     // from F to the end of its B, split or not: all a forward pass saved
  int deferred = 0;  // from a split B to the end of its W: what W still needs
};

struct Verdict {
  bool ok = false;
  std::string
      problem;  // empty when ok; else one line naming rank and step, as "rank 3, step 17 (W 4): no ..."
  std::vector<PeakActivations> peaks;  // [rank]; empty when the steps themselves are malformed
  PeakActivations peak;                // the largest of each
  // Whether messages between two ranks meet in order even when activations and gradients share one queue a
  // direction, as in untagged point-to-point calls.
  bool in_order_in_one_queue = false;
};

// Holds, for a verdict that is ok: every micro-batch has one F, one B and one W (or one B with W in it) on
// each chunk it visits, in this order, each after what it needs was computed here or received; sends meet
// receives, of the same micro-batch and stage, in order; all ranks come to their end with these buffers; no
// rank holds more than most_live.
Verdict check_schedule(const Schedule& schedule, const CheckOptions& options = {});

}  // namespace moray
