#include "parallel/check.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "parallel/timeline.h"

namespace moray {
namespace {

constexpr std::array kKinds = {ScheduleKind::kOneFOneB, ScheduleKind::kZb1p, ScheduleKind::kDualPipe,
                               ScheduleKind::kDualPipeV};

std::vector<Schedule> many_schedules() {
  std::vector<Schedule> all;
  for (const ScheduleKind kind : kKinds)
    for (int ranks = 1; ranks <= 16; ++ranks)
      for (const int micro_batches : {1, 2, 3, ranks, 2 * ranks, 2 * ranks + 1, 2 * ranks + 2, 5 * ranks})
        try {
          all.push_back(make_schedule(kind, ranks, micro_batches));
        } catch (const Error&) {  // not possible for this kind
        }
  return all;
}

TEST(Check, PassesEverySchedule) {
  const std::vector<Schedule> all = many_schedules();
  EXPECT_GT(all.size(), 250u);
  for (const Schedule& schedule : all) {
    SCOPED_TRACE(fmt::format("{}, {} ranks, {} micro-batches", schedule_name(schedule.kind), schedule.ranks,
                             schedule.micro_batches));
    for (const bool batched : {true, false}) {
      const Verdict verdict = check_schedule(schedule, {.buffers = batched ? 0 : 1, .batched = batched});
      EXPECT_TRUE(verdict.ok) << verdict.problem;
      EXPECT_TRUE(verdict.in_order_in_one_queue);
    }
  }
}

TEST(Check, PeakActivationsAreTheTables) {
  for (const ScheduleKind kind : kKinds)
    for (const int ranks : {2, 4, 8, 16}) {
      const int peak = published_peak_activations(kind, ranks);
      EXPECT_EQ(check_schedule(make_schedule(kind, ranks, 4 * ranks)).peak.live, peak) << schedule_name(kind);
      EXPECT_TRUE(check_schedule(make_schedule(kind, ranks, 4 * ranks), {.most_live = peak}).ok);
      EXPECT_FALSE(check_schedule(make_schedule(kind, ranks, 4 * ranks), {.most_live = peak - 1}).ok);
    }
  // By hand: rank 1 of ZB1P runs F0 F1 b0 F2 b1 W0 F3 b2 W1 b3 W2 W3.
  const PeakActivations peak = check_schedule(make_schedule(ScheduleKind::kZb1p, 3, 4)).peaks.at(1);
  EXPECT_EQ(peak.live, 3);
  EXPECT_EQ(peak.saved, 2);
  EXPECT_EQ(peak.deferred, 2);
}

class PlantedFault : public testing::TestWithParam<ScheduleKind> {
 protected:
  PlantedFault() : schedule_(make_schedule(GetParam(), 4, 12)) {}

  std::vector<Step>& rank(size_t r) { return schedule_.steps[r]; }
  // Index of the n-th step of this kind on a rank.
  size_t find(size_t r, StepKind kind, int n) {
    for (size_t i = 0; i < rank(r).size(); ++i)
      if (rank(r)[i].kind == kind && n-- == 0) return i;
    throw std::out_of_range("no such step");
  }
  std::string problem(const CheckOptions& options = {}) {
    const Verdict verdict = check_schedule(schedule_, options);
    EXPECT_EQ(verdict.ok, verdict.problem.empty());
    return verdict.problem;
  }
  void erase(size_t r, size_t i) { rank(r).erase(rank(r).begin() + static_cast<std::ptrdiff_t>(i)); }

  Schedule schedule_;
};

#define EXPECT_FAULT(part) EXPECT_NE(problem().find(part), std::string::npos) << problem()

// The earlier of two sends leaves right after the later one; both have been computed by then.
TEST_P(PlantedFault, SwappedSends) {
  const size_t first = find(1, StepKind::kSendActivation, 0);
  const Step earlier = rank(1)[first];
  size_t second = first + 1;
  while (rank(1)[second].kind != earlier.kind || rank(1)[second].chunk != earlier.chunk) ++second;
  const Step later = rank(1)[second];
  erase(1, first);
  rank(1).insert(rank(1).begin() + static_cast<std::ptrdiff_t>(second), earlier);
  EXPECT_FAULT(fmt::format("rank {}, step", earlier.peer));
  EXPECT_FAULT(fmt::format("meets another message: rank 1, step {} ({})", second - 1, step_name(later)));
}

TEST_P(PlantedFault, ReceivesInAnotherOrderThanSends) {
  std::vector<Step>& steps = rank(2);
  const size_t first = find(2, StepKind::kReceiveGradient, 2);
  size_t second = first + 1;
  while (steps[second].kind != StepKind::kReceiveGradient || steps[second].chunk != steps[first].chunk)
    ++second;
  // Receiving the later one first, and both before either is used.
  const Step later = steps[second];
  erase(2, second);
  steps.insert(steps.begin() + static_cast<std::ptrdiff_t>(first), later);
  EXPECT_FAULT("meets another message: rank ");
  EXPECT_FAULT(fmt::format("rank 2, step {} ({})", first, step_name(later)));
}

TEST_P(PlantedFault, SendBeforeItsForward) {
  std::vector<Step>& steps = rank(0);
  std::swap(steps[find(0, StepKind::kForward, 0)], steps[find(0, StepKind::kSendActivation, 0)]);
  EXPECT_FAULT("rank 0, step 0 (send activation 0 to 1): micro-batch 0 chunk 0 comes before its F");
}

TEST_P(PlantedFault, MissingSend) {
  const size_t at = find(1, StepKind::kSendActivation, 0);
  const Step step = rank(1)[at];
  erase(1, at);
  EXPECT_FAULT(fmt::format("rank 1, at its end: micro-batch {} chunk {} has no send of its activation",
                           step.micro_batch, step.chunk));
}

TEST_P(PlantedFault, MissingReceive) {
  erase(1, find(1, StepKind::kReceiveActivation, 1));
  EXPECT_FAULT("comes before its activation");
}

TEST_P(PlantedFault, DuplicatedForward) {
  const size_t at = find(3, StepKind::kForward, 1);
  const Step step = rank(3)[at];
  rank(3).insert(rank(3).begin() + static_cast<std::ptrdiff_t>(at), step);
  EXPECT_FAULT(fmt::format("rank 3, step {} ({}): micro-batch {} chunk {} already had F", at + 1,
                           step_name(step), step.micro_batch, step.chunk));
}

TEST_P(PlantedFault, WrongPeer) {
  const size_t at = find(0, StepKind::kSendActivation, 0);
  rank(0)[at].peer = 2;
  EXPECT_FAULT("the stage on that side is on rank 1");
  rank(0)[at].peer = -7;
  EXPECT_FAULT("the stage on that side is on rank 1");
}

TEST_P(PlantedFault, NoSuchMicroBatch) {
  rank(0)[0].micro_batch = 1 << 30;
  EXPECT_FAULT("no micro-batch 1073741824 among 12");
}

TEST_P(PlantedFault, MissingRank) {
  schedule_.steps.pop_back();
  EXPECT_FAULT("4 ranks but steps for 3");
}

INSTANTIATE_TEST_SUITE_P(Kinds, PlantedFault, testing::ValuesIn(kKinds),
                         [](const auto& tested) { return fmt::format("k{}", schedule_name(tested.param)); });

using PlantedFaultInSplit = PlantedFault;

TEST_P(PlantedFaultInSplit, MissingWeight) {
  const size_t at = find(2, StepKind::kBackwardWeight, 0);
  const Step step = rank(2)[at];
  erase(2, at);
  EXPECT_FAULT(
      fmt::format("rank 2, at its end: micro-batch {} chunk {} has no W", step.micro_batch, step.chunk));
}

TEST_P(PlantedFaultInSplit, WeightBeforeItsBackward) {
  const size_t at = find(2, StepKind::kBackwardWeight, 0);
  const Step step = rank(2)[at];
  erase(2, at);
  rank(2).insert(rank(2).begin(), step);
  EXPECT_FAULT("comes before its B");
}

INSTANTIATE_TEST_SUITE_P(Kinds, PlantedFaultInSplit,
                         testing::Values(ScheduleKind::kZb1p, ScheduleKind::kDualPipe,
                                         ScheduleKind::kDualPipeV),
                         [](const auto& tested) { return fmt::format("k{}", schedule_name(tested.param)); });

// Two ranks of 1F1B, where rank 0 waits for the gradient of 0 before it sends micro-batch 1, while rank 1
// wants both activations before its first backward.
TEST(Check, FindsACycle) {
  Schedule schedule = make_schedule(ScheduleKind::kOneFOneB, 2, 2);
  using enum StepKind;
  schedule.steps = {{{kForward, 0},
                     {kSendActivation, 0, 0, -1, -1, 1},
                     {kReceiveGradient, 0, 0, -1, -1, 1},
                     {kBackward, 0},
                     {kForward, 1},
                     {kSendActivation, 1, 0, -1, -1, 1},
                     {kReceiveGradient, 1, 0, -1, -1, 1},
                     {kBackward, 1}},
                    {{kReceiveActivation, 0, 0, -1, -1, 0},
                     {kForward, 0},
                     {kReceiveActivation, 1, 0, -1, -1, 0},
                     {kForward, 1},
                     {kBackward, 0},
                     {kSendGradient, 0, 0, -1, -1, 0},
                     {kBackward, 1},
                     {kSendGradient, 1, 0, -1, -1, 0}}};
  EXPECT_EQ(
      check_schedule(schedule, {.buffers = 100}).problem,
      "deadlock: rank 0, step 2 (receive gradient 0 from 1) waits for rank 1, step 5 (send gradient 0 to 0); "
      "rank 1, step 2 (receive activation 1 from 0) waits for rank 0, step 5 (send activation 1 to 1)");
}

// Both ranks send before they receive: fine with a buffer, or as one batch; stuck without either.
TEST(Check, BuffersAndBatchesBreakCycles) {
  const Schedule schedule = make_schedule(ScheduleKind::kOneFOneB, 2, 4);
  EXPECT_TRUE(check_schedule(schedule, {.buffers = 0, .batched = true}).ok);
  EXPECT_TRUE(check_schedule(schedule, {.buffers = 1, .batched = false}).ok);
  const Verdict verdict = check_schedule(schedule, {.buffers = 0, .batched = false});
  EXPECT_EQ(verdict.problem.rfind("deadlock: rank 0, step ", 0), 0u) << verdict.problem;
}

// Messages pile up where a receiver takes them late: two must be under way.
TEST(Check, BoundedBuffersFill) {
  Schedule schedule = make_schedule(ScheduleKind::kDualPipe, 2, 4);
  using enum StepKind;
  // Rank 0 sends both of its micro-batches before it takes anything; rank 1 likewise.
  schedule.steps = {{}, {}};
  for (int r = 0; r < 2; ++r) {
    const int near = r == 0 ? 0 : 2, far = 2 - near, peer = 1 - r;
    std::vector<Step>& steps = schedule.steps[static_cast<size_t>(r)];
    for (int i : {near, near + 1}) {
      steps.push_back({kForward, i, r});
      steps.push_back({kSendActivation, i, r, -1, -1, peer});
    }
    for (int i : {far, far + 1}) {
      steps.push_back({kReceiveActivation, i, 1 - r, -1, -1, peer});
      steps.push_back({kForward, i, 1 - r});
      steps.push_back({kBackward, i, 1 - r});
      steps.push_back({kSendGradient, i, 1 - r, -1, -1, peer});
    }
    for (int i : {near, near + 1}) {
      steps.push_back({kReceiveGradient, i, r, -1, -1, peer});
      steps.push_back({kBackward, i, r});
    }
  }
  EXPECT_TRUE(check_schedule(schedule, {.buffers = 2, .batched = false}).ok);
  EXPECT_EQ(
      check_schedule(schedule, {.buffers = 1, .batched = false}).problem,
      "deadlock: rank 0, step 3 (send activation 1 to 1) waits for rank 1, step 4 (receive activation 0 from "
      "0); rank 1, step 3 (send activation 3' to 0) waits for rank 0, step 4 (receive activation 2' from 1)");
}

// A gradient that overtakes an activation to the same rank is fine with tags, and wrong without.
TEST(Check, TellsWhetherOneQueueSuffices) {
  Schedule schedule = make_schedule(ScheduleKind::kDualPipe, 2, 4);
  std::vector<Step>& steps = schedule.steps[0];
  const auto at = std::adjacent_find(steps.begin(), steps.end(), [](const Step& a, const Step& b) {
    return a.kind == StepKind::kSendActivation && b.kind == StepKind::kSendGradient;
  });
  ASSERT_NE(at, steps.end());
  std::iter_swap(at, at + 1);
  const Verdict verdict = check_schedule(schedule);
  EXPECT_TRUE(verdict.ok) << verdict.problem;
  EXPECT_FALSE(verdict.in_order_in_one_queue);
}

TEST(Check, LimitOfActivations) {
  const Verdict verdict = check_schedule(make_schedule(ScheduleKind::kDualPipe, 8, 20), {.most_live = 8});
  EXPECT_EQ(verdict.problem, "rank 0 holds activations of 9 chunks at a time; the limit is 8");
  EXPECT_EQ(verdict.peak.live, 9);
}

}  // namespace
}  // namespace moray
