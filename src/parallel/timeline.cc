#include "parallel/timeline.h"

#include <algorithm>

#include "base/error.h"
#include "parallel/walk.h"

namespace moray {

StepCost uniform_cost(const ChunkCosts& costs) {
  return [costs](int, const Step& step) {
    switch (step.kind) {
      case StepKind::kForward:
        return costs.forward;
      case StepKind::kBackward:
        return costs.backward;
      case StepKind::kBackwardInput:
        return costs.backward - costs.weight;
      case StepKind::kBackwardWeight:
        return costs.weight;
      case StepKind::kPair:
        return costs.pair;
      default:
        return 0.0;
    }
  };
}

Timeline simulate(const Schedule& schedule, const StepCost& cost, const HopCost& hop) {
  Walk walk = walk_schedule(schedule, cost, hop, {});
  for (size_t rank = 0; rank < schedule.steps.size(); ++rank)
    if (const int at = walk.waits[rank].step; at >= 0)
      fail("{}: rank {} stops at step {} ({})", schedule_name(schedule.kind), rank, at,
           step_name(schedule.steps[rank][static_cast<size_t>(at)]));
  Timeline timeline;
  for (size_t rank = 0; rank < schedule.steps.size(); ++rank) {
    double busy = 0;
    for (size_t i = 0; i < schedule.steps[rank].size(); ++i) {
      const StepSpan& span = walk.spans[rank][i];
      timeline.makespan = std::max(timeline.makespan, span.end);
      if (is_compute(schedule.steps[rank][i])) busy += span.end - span.start;
    }
    timeline.busy.push_back(busy);
  }
  timeline.spans = std::move(walk.spans);
  for (const double busy : timeline.busy) {
    timeline.bubble.push_back(timeline.makespan - busy);
    timeline.worst_bubble = std::max(timeline.worst_bubble, timeline.bubble.back());
  }
  return timeline;
}

double published_bubble(ScheduleKind kind, int ranks, const ChunkCosts& costs) {
  switch (kind) {
    case ScheduleKind::kOneFOneB:
      return (ranks - 1) * (costs.forward + costs.backward);
    case ScheduleKind::kZb1p:
      return (ranks - 1) * (costs.forward + costs.backward - 2 * costs.weight);
    default: {
      // PP/2 − 1, where DualPipeV has PP/2 ranks.
      const int others = (kind == ScheduleKind::kDualPipe ? ranks / 2 : ranks) - 1;
      return others * (costs.pair + costs.backward - 3 * costs.weight);
    }
  }
}

int published_peak_activations(ScheduleKind kind, int ranks) {
  switch (kind) {
    case ScheduleKind::kDualPipe:
      return ranks + 1;
    case ScheduleKind::kDualPipeV:
      return 2 * ranks + 1;
    default:
      return ranks;
  }
}

}  // namespace moray
