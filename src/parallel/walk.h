// Runs a schedule as ranks would: each works its steps off in order, consecutive sends and receives are
// posted together as a batch, and a rank moves on when its batch is complete. The timeline and the checker
// both see a schedule through this.
#pragma once

#include "parallel/timeline.h"

namespace moray {

inline constexpr int kUnbounded = -1;

struct WalkOptions {
  // Messages a sender may have under way to one peer, of one kind, before a send waits for the receiver. 0: a
  // send waits until its own receive is posted, as in a batch of point-to-point calls without buffers.
  int buffers = kUnbounded;
  bool batched = true;  // false: sends and receives complete one by one, in order
};

// Why a rank stands still: it waits for another to come to its step `on_step`.
struct Wait {
  int step = -1;                   // of the rank itself; -1: it came to its end
  int on_rank = -1, on_step = -1;  // on_step -1: the other has no such step
};

struct Walk {
  std::vector<std::vector<StepSpan>> spans;
  std::vector<Wait> waits;  // [rank]
  bool complete = true;
};

// Peers must be ranks of the schedule. O(steps).
Walk walk_schedule(const Schedule& schedule, const StepCost& cost, const HopCost& hop,
                   const WalkOptions& options);

// Messages are told apart by sender, receiver and kind, and meet in order within that: the channel of each
// send and receive, -1 for computing steps, and per channel the steps at both ends.
struct Channels {
  struct Ends {
    int from = 0, to = 0;
    StepKind kind = StepKind::kSendActivation;
    std::vector<int> sends, receives;  // step indices
  };
  std::vector<Ends> ends;
  std::vector<std::vector<int>> of_step;   // [rank][step]
  std::vector<std::vector<int>> sequence;  // [rank][step] which message of its channel
};
Channels find_channels(const Schedule& schedule);

}  // namespace moray
