// moray plan schedule: one pipeline schedule, checked, timed and drawn.
#pragma once

#include <string>

namespace moray {

struct PlanScheduleOptions {
  std::string schedule;           // 1f1b, zb1p, dualpipe, dualpipev
  int ranks = 8;                  // --ranks: ranks of the pipeline (DualPipeV: half the stages)
  int micro_batches = 20;         // --micro-batches: a step, counting both directions of DualPipe
  std::string costs = "1,2,1,3";  // --costs F,B,W,FB: forward, whole backward, weight part, overlapped pair
  double hop = 0;                 // --hop: time from one rank to the next, in the same unit
  std::string svg;                // --svg FILE: where to write the picture; empty: nowhere
  bool steps = false;  // --steps: list every step, sends and receives included, instead of the picture
  bool json = false;   // --json: one JSON object on stdout
};
int run_plan_schedule(const PlanScheduleOptions& options);

}  // namespace moray
