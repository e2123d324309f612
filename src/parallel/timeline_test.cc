#include "parallel/timeline.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <map>

#include "base/test_help.h"
#include "parallel/walk.h"

namespace moray {
namespace {

constexpr std::array kKinds = {ScheduleKind::kOneFOneB, ScheduleKind::kZb1p, ScheduleKind::kDualPipe,
                               ScheduleKind::kDualPipeV};

double worst_bubble(ScheduleKind kind, int ranks, int micro_batches, const ChunkCosts& costs) {
  return simulate(make_schedule(kind, ranks, micro_batches), uniform_cost(costs)).worst_bubble;
}

TEST(Timeline, BubblesEqualTheClosedForms) {
  const ChunkCosts costs{.forward = 1, .backward = 2, .weight = 1, .pair = 3};
  for (const ScheduleKind kind : kKinds)
    for (int ranks = 2; ranks <= 16; ranks += 2)
      for (const int micro_batches : {2 * ranks, 2 * ranks + 2, 4 * ranks, 120})
        EXPECT_EQ(worst_bubble(kind, ranks, micro_batches, costs), published_bubble(kind, ranks, costs))
            << schedule_name(kind) << " " << ranks << " ranks, " << micro_batches << " micro-batches";
}

TEST(Timeline, ClosedFormsByHand) {
  const ChunkCosts costs{.forward = 1, .backward = 2, .weight = 0.75, .pair = 2.5};
  EXPECT_EQ(published_bubble(ScheduleKind::kOneFOneB, 8, costs), 21);
  EXPECT_EQ(published_bubble(ScheduleKind::kZb1p, 8, costs), 10.5);
  EXPECT_EQ(published_bubble(ScheduleKind::kDualPipe, 8, costs), 6.75);
  EXPECT_EQ(published_bubble(ScheduleKind::kDualPipeV, 4, costs), 6.75);
}

// Away from F = W = B/2 the published schedule and its formula differ a little.
TEST(Timeline, WhereTheFormulaDiffers) {
  const ChunkCosts costs{.forward = 1, .backward = 2, .weight = 0.8, .pair = 3};
  EXPECT_NEAR(worst_bubble(ScheduleKind::kDualPipe, 8, 20, costs), 7.2, 1e-9);
  EXPECT_NEAR(published_bubble(ScheduleKind::kDualPipe, 8, costs), 7.8, 1e-9);
}

TEST(Timeline, HopsDelayWhatTravels) {
  const ChunkCosts costs{.forward = 1, .backward = 2, .weight = 1, .pair = 3};
  const HopCost hop = [](int, int, const Step& send) {
    return send.kind == StepKind::kSendActivation ? 0.25 : 0.5;
  };
  const Timeline timeline = simulate(make_schedule(ScheduleKind::kOneFOneB, 5, 1), uniform_cost(costs), hop);
  EXPECT_EQ(timeline.makespan, 5 * (1 + 2) + 4 * (0.25 + 0.5));
  EXPECT_EQ(timeline.busy, std::vector<double>(5, 3.0));
  const auto& last = timeline.spans.at(4);  // receive, F, B, send
  EXPECT_EQ(last.at(0).end, 5.0);
  EXPECT_EQ(last.at(1).start, 5.0);
  EXPECT_EQ(last.at(2).end, 8.0);
}

// Every computing step by relaxation over what it needs, without channels, batches or a queue of ranks. With
// one cost a step and no hop, what is received late in a batch delays the next step all the same.
std::vector<std::vector<double>> relaxed_ends(const Schedule& schedule, const StepCost& cost, double hop) {
  std::map<std::tuple<bool, int, int>, double>
      sent;  // (activation, micro-batch, receiver's stage) to arrival
  std::vector<std::vector<double>> ends;
  for (const auto& steps : schedule.steps) ends.emplace_back(steps.size(), 0.0);
  for (bool changed = true; changed;) {
    changed = false;
    for (int rank = 0; rank < schedule.ranks; ++rank) {
      double now = 0;
      const auto& steps = schedule.steps[static_cast<size_t>(rank)];
      for (size_t i = 0; i < steps.size(); ++i) {
        const Step& step = steps[i];
        const int stage = stage_of(schedule.kind, rank, step.chunk, schedule.ranks);
        if (is_send(step)) {
          // Sent when the batch begins: at the end of the computing step before it.
          double posted = 0;
          for (size_t k = i; k-- > 0;)
            if (is_compute(steps[k])) {
              posted = ends[static_cast<size_t>(rank)][k];
              break;
            }
          const bool activation = step.kind == StepKind::kSendActivation;
          sent[{activation, step.micro_batch, stage + (activation ? 1 : -1)}] = posted + hop;
        } else if (is_receive(step)) {
          now = std::max(now, sent[{step.kind == StepKind::kReceiveActivation, step.micro_batch, stage}]);
        } else {
          now += cost(rank, step);
        }
        double& end = ends[static_cast<size_t>(rank)][i];
        if (is_compute(step) && end != now) end = now, changed = true;
      }
    }
  }
  return ends;
}

TEST(Timeline, EqualsRelaxationWithUnevenCosts) {
  for (const ScheduleKind kind : kKinds) {
    const Schedule schedule = make_schedule(kind, 6, 14);
    // Eighths, so that sums are exact.
    const StepCost cost = [](int rank, const Step& step) {
      const int mixed = rank * 7919 + step.micro_batch * 104729 + static_cast<int>(step.kind) * 1299709;
      return 0.125 * (1 + mixed % 17);
    };
    const HopCost hop = [](int, int, const Step&) { return 0.375; };
    const Timeline timeline = simulate(schedule, cost, hop);
    const auto expected = relaxed_ends(schedule, cost, 0.375);
    for (size_t rank = 0; rank < 6; ++rank)
      for (size_t i = 0; i < schedule.steps[rank].size(); ++i)
        if (is_compute(schedule.steps[rank][i])) {
          ASSERT_EQ(timeline.spans[rank][i].end, expected[rank][i])
              << schedule_name(kind) << " rank " << rank << " " << step_name(schedule.steps[rank][i]);
        }
  }
}

TEST(Timeline, BuffersCostTime) {
  const Schedule schedule = make_schedule(ScheduleKind::kDualPipe, 8, 20);
  const StepCost cost = uniform_cost({});
  double before = simulate(schedule, cost).makespan;
  for (const int buffers : {4, 1, 0}) {  // fewer buffers never help
    double makespan = 0;
    const Walk walk = walk_schedule(schedule, cost, {}, {buffers, true});
    ASSERT_TRUE(walk.complete);
    for (const auto& spans : walk.spans) makespan = std::max(makespan, spans.back().end);
    EXPECT_GE(makespan, before);
    before = makespan;
  }
}

TEST(Timeline, StopsWithALine) {
  Schedule schedule = make_schedule(ScheduleKind::kOneFOneB, 2, 1);
  schedule.steps[0].erase(schedule.steps[0].begin() + 1);  // the send
  EXPECT_EQ(test::error_of([&] { simulate(schedule, uniform_cost({})); }),
            "1f1b: rank 0 stops at step 1 (receive gradient 0 from 1)");
}

// Milliseconds each; the bounds leave room for a busy machine and sanitizers.
TEST(Timeline, IsFastAtScale) {
  const auto begin = std::chrono::steady_clock::now();
  const Schedule schedule = make_schedule(ScheduleKind::kDualPipe, 16, 120);
  const Timeline timeline = simulate(schedule, uniform_cost({}));
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
  EXPECT_EQ(timeline.makespan, 120 * 3 + 7 * 2);
  EXPECT_LT(taken.count(), 0.5);
}

}  // namespace
}  // namespace moray
