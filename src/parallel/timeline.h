// What a schedule costs: every step's start and end, from the costs of the steps and of the hops.
#pragma once

#include <functional>
#include <vector>

#include "parallel/schedule.h"

namespace moray {

// Costs of one chunk on one micro-batch, in any unit of time. backward is the whole B; a split B costs
// backward − weight, its W costs weight; pair is F&B.
struct ChunkCosts {
  double forward = 1;
  double backward = 2;
  double weight = 1;
  double pair = 3;
};

using StepCost = std::function<double(int rank, const Step& step)>;         // of a computing step; ≥ 0
using HopCost = std::function<double(int from, int to, const Step& send)>;  // from send to arrival; ≥ 0

StepCost uniform_cost(const ChunkCosts& costs);

struct StepSpan {
  double start = 0, end = 0;  // of a send: when it was posted and when its buffer was free again;
                              // of a receive: when the rank came to it and when the message was there
};

struct Timeline {
  std::vector<std::vector<StepSpan>> spans;  // [rank][step], as in Schedule::steps
  double makespan = 0;
  std::vector<double> busy;    // [rank] time in computing steps
  std::vector<double> bubble;  // [rank] makespan − busy
  double worst_bubble = 0;
};

// Runs the schedule: a rank works its steps off in order, a receive waits for its message, sends cost the
// rank nothing and never wait. O(steps). Error if the schedule stops before its end (check.h says why).
Timeline simulate(const Schedule& schedule, const StepCost& cost, const HopCost& hop = {});

// The published closed forms: bubble of the worst rank, exact for F = W = B/2 and F&B = F + B, and peak
// activations a rank, in chunks.
double published_bubble(ScheduleKind kind, int ranks, const ChunkCosts& costs);
int published_peak_activations(ScheduleKind kind, int ranks);

}  // namespace moray
