#include "parallel/schedule.h"

#include <algorithm>
#include <array>

#include "base/error.h"

namespace moray {

namespace {

// More than anyone runs, and little enough that steps can be counted in 32 bits and held in memory.
constexpr int kMostRanks = 4096;
constexpr int64_t kMostChunks = int64_t{1} << 22;  // ranks × micro_batches

constexpr std::array<std::string_view, 4> kScheduleNames = {"1f1b", "zb1p", "dualpipe", "dualpipev"};

bool is_folded(ScheduleKind kind) {
  return kind == ScheduleKind::kDualPipe || kind == ScheduleKind::kDualPipeV;
}

std::string micro_batch_name(int micro_batch, int chunk) {
  return fmt::format("{}{}", micro_batch, chunk == 0 ? "" : "'");
}

void check_rank(int rank, int ranks) {
  if (rank < 0 || rank >= ranks) fail("rank {} of a pipeline of {}", rank, ranks);
}

}  // namespace

std::string step_name(const Step& step) {
  const std::string id = micro_batch_name(step.micro_batch, step.chunk);
  switch (step.kind) {
    case StepKind::kForward:
      return "F " + id;
    case StepKind::kBackward:
      return "B " + id;
    case StepKind::kBackwardInput:
      return "Bi " + id;
    case StepKind::kBackwardWeight:
      return "W " + id;
    case StepKind::kPair:
      return fmt::format("F {} & B {}", id, micro_batch_name(step.backward_micro_batch, step.backward_chunk));
    case StepKind::kSendActivation:
      return fmt::format("send activation {} to {}", id, step.peer);
    case StepKind::kReceiveActivation:
      return fmt::format("receive activation {} from {}", id, step.peer);
    case StepKind::kSendGradient:
      return fmt::format("send gradient {} to {}", id, step.peer);
    case StepKind::kReceiveGradient:
      return fmt::format("receive gradient {} from {}", id, step.peer);
  }
  return fmt::format("step of unknown kind {}", static_cast<int>(step.kind));
}

std::string_view schedule_name(ScheduleKind kind) {
  return kScheduleNames.at(static_cast<size_t>(kind));
}

ScheduleKind schedule_kind_from_name(std::string_view name) {
  for (size_t i = 0; i < kScheduleNames.size(); ++i)
    if (kScheduleNames[i] == name) return static_cast<ScheduleKind>(i);
  fail("schedule '{}': must be one of 1f1b, zb1p, dualpipe, dualpipev", name);
}

void check_schedule_arguments(ScheduleKind kind, int ranks, int micro_batches) {
  const std::string_view name = schedule_name(kind);
  if (ranks < 1 || ranks > kMostRanks)
    fail("{}: ranks must be between 1 and {}, got {}", name, kMostRanks, ranks);
  if (micro_batches < 1) fail("{}: micro-batches must be at least 1, got {}", name, micro_batches);
  if (int64_t{ranks} * micro_batches > kMostChunks)
    fail("{}: {} ranks × {} micro-batches is more than {} chunks", name, ranks, micro_batches, kMostChunks);
  if (kind == ScheduleKind::kDualPipe && ranks % 2 != 0)
    fail("{}: needs an even number of ranks, got {}", name, ranks);
  if (kind == ScheduleKind::kDualPipe && micro_batches % 2 != 0)
    fail("{}: needs an even number of micro-batches, got {}", name, micro_batches);
  if (is_folded(kind) && micro_batches < 2 * ranks)
    fail("{}: {} ranks need at least {} micro-batches, got {}", name, ranks, 2 * ranks, micro_batches);
}

int stage_count(ScheduleKind kind, int ranks) {
  return kind == ScheduleKind::kDualPipeV ? 2 * ranks : ranks;
}

int chunks_per_rank(ScheduleKind kind) {
  return is_folded(kind) ? 2 : 1;
}

int stage_of(ScheduleKind kind, int rank, int chunk, int ranks) {
  return chunk == 0 ? rank : stage_count(kind, ranks) - 1 - rank;
}

int rank_after(ScheduleKind kind, int rank, int chunk, int ranks) {
  if (stage_of(kind, rank, chunk, ranks) == stage_count(kind, ranks) - 1) return -1;
  if (chunk == 1) return rank - 1;
  return rank == ranks - 1 ? rank : rank + 1;
}

int rank_before(ScheduleKind kind, int rank, int chunk, int ranks) {
  if (stage_of(kind, rank, chunk, ranks) == 0) return -1;
  if (chunk == 0) return rank - 1;
  return rank == ranks - 1 ? rank : rank + 1;
}

bool visits(const Schedule& schedule, int micro_batch, int chunk) {
  if (schedule.kind != ScheduleKind::kDualPipe) return true;
  return (micro_batch < schedule.micro_batches / 2) == (chunk == 0);
}

namespace {

// Appends steps of one rank; sends and receives that have no other end (first and last stage, the turn of
// DualPipeV) are left out.
class Steps {
 public:
  Steps(ScheduleKind kind, int rank, int ranks) : kind_(kind), rank_(rank), ranks_(ranks) {}

  void compute(StepKind kind, int micro_batch, int chunk) { steps_.push_back({kind, micro_batch, chunk}); }
  void pair(int micro_batch, int chunk, int backward_micro_batch, int backward_chunk) {
    steps_.push_back({StepKind::kPair, micro_batch, chunk, backward_micro_batch, backward_chunk});
  }
  void receive_activation(int micro_batch, int chunk) {
    move(StepKind::kReceiveActivation, micro_batch, chunk);
  }
  void send_activation(int micro_batch, int chunk) { move(StepKind::kSendActivation, micro_batch, chunk); }
  void receive_gradient(int micro_batch, int chunk) { move(StepKind::kReceiveGradient, micro_batch, chunk); }
  void send_gradient(int micro_batch, int chunk) { move(StepKind::kSendGradient, micro_batch, chunk); }

  std::vector<Step> take() { return std::move(steps_); }

 private:
  void move(StepKind kind, int micro_batch, int chunk) {
    const bool onward = kind == StepKind::kSendActivation || kind == StepKind::kReceiveGradient;
    const int peer =
        onward ? rank_after(kind_, rank_, chunk, ranks_) : rank_before(kind_, rank_, chunk, ranks_);
    if (peer >= 0 && peer != rank_) steps_.push_back({kind, micro_batch, chunk, -1, -1, peer});
  }

  ScheduleKind kind_;
  int rank_, ranks_;
  std::vector<Step> steps_;
};

// 1F1B, and with `split` ZB1P: the same order, with W of micro-batch i run `rank` backwards later. Ranks
// further down hold fewer micro-batches in 1F1B; deferring W spends that room.
std::vector<Step> one_direction(ScheduleKind kind, int rank, int ranks, int micro_batches, bool split) {
  check_schedule_arguments(kind, ranks, micro_batches);
  check_rank(rank, ranks);
  Steps steps(kind, rank, ranks);
  const auto backward = [&](int i) {
    steps.compute(split ? StepKind::kBackwardInput : StepKind::kBackward, i, 0);
    steps.send_gradient(i, 0);
    if (split && i >= rank) steps.compute(StepKind::kBackwardWeight, i - rank, 0);
  };
  const int lead = std::min(ranks - 1 - rank, micro_batches);
  for (int i = 0; i < micro_batches; ++i) {
    steps.receive_activation(i, 0);
    steps.compute(StepKind::kForward, i, 0);
    steps.send_activation(i, 0);
    if (i < lead) continue;
    steps.receive_gradient(i - lead, 0);
    backward(i - lead);
  }
  for (int i = micro_batches - lead; i < micro_batches; ++i) {
    steps.receive_gradient(i, 0);
    backward(i);
  }
  if (split)
    for (int i = std::max(0, micro_batches - rank); i < micro_batches; ++i)
      steps.compute(StepKind::kBackwardWeight, i, 0);
  return steps.take();
}

// DualPipe and DualPipeV on one rank. `near` directions are counted from this rank's end: 0 is the one whose
// early stages lie here. Each direction works its micro-batches off in order, so counters tell which is
// meant.
class Folded {
 public:
  Folded(ScheduleKind kind, int rank, int ranks, int micro_batches)
      : steps_(kind, rank, ranks), far_half_(kind == ScheduleKind::kDualPipe && rank >= ranks / 2) {
    const bool both_ends = kind == ScheduleKind::kDualPipe;
    per_direction_ = both_ends ? micro_batches / 2 : micro_batches;
    first_of_chunk_ = {0, both_ends ? per_direction_ : 0};
    half_ = both_ends ? ranks / 2 : ranks;
    depth_ = far_half_ ? ranks - 1 - rank : rank;
  }

  std::vector<Step> build() {
    const int outside = half_ - 1 - depth_;  // ranks between this one and the middle
    const int inside = depth_ + 1;
    fill(outside, inside);
    for (int i = 0; i < outside; ++i) {  // (3)
      backward(1, StepKind::kBackwardInput);
      receive_activation(1);
      weight();
      forward(1);
      send_activation(1);
    }
    for (int i = 0; i < per_direction_ - 2 * half_ + inside; ++i) {  // (4)
      if (i == 0)
        first_pair();
      else
        pair(0, 1);
      pair(1, 0);
    }
    for (int i = 0; i < outside; ++i) {  // (5)
      backward(1, StepKind::kBackward);
      pair(1, 0);
    }
    drain(outside, inside);
    return steps_.take();
  }

 private:
  struct Counters {
    int forward = 0, backward = 0, received = 0, sent = 0, gradients_received = 0, gradients_sent = 0;
  };

  bool is_middle() const { return depth_ == half_ - 1; }
  int chunk_of(int near) const { return far_half_ ? 1 - near : near; }
  int micro_batch(int near, int index) const {
    return first_of_chunk_[static_cast<size_t>(chunk_of(near))] + index;
  }
  Counters& count(int near) { return counters_[static_cast<size_t>(near)]; }

  void receive_activation(int near) {
    steps_.receive_activation(micro_batch(near, count(near).received++), chunk_of(near));
  }
  void send_activation(int near) {
    steps_.send_activation(micro_batch(near, count(near).sent++), chunk_of(near));
  }
  void receive_gradient(int near) {
    steps_.receive_gradient(micro_batch(near, count(near).gradients_received++), chunk_of(near));
  }
  void send_gradient(int near) {
    steps_.send_gradient(micro_batch(near, count(near).gradients_sent++), chunk_of(near));
  }
  void forward(int near) {
    steps_.compute(StepKind::kForward, micro_batch(near, count(near).forward++), chunk_of(near));
  }
  void backward_alone(int near, StepKind kind) {
    const Step step{kind, micro_batch(near, count(near).backward++), chunk_of(near)};
    steps_.compute(step.kind, step.micro_batch, step.chunk);
    if (kind == StepKind::kBackwardInput) deferred_.push_back(step);
  }
  void backward(int near, StepKind kind) {
    receive_gradient(near);
    backward_alone(near, kind);
    send_gradient(near);
  }
  void weight() {  // first in, first out
    const Step& step = deferred_.at(next_weight_++);
    steps_.compute(StepKind::kBackwardWeight, step.micro_batch, step.chunk);
  }
  void overlapped(int near, int near_back) {
    receive_gradient(near_back);
    steps_.pair(micro_batch(near, count(near).forward++), chunk_of(near),
                micro_batch(near_back, count(near_back).backward++), chunk_of(near_back));
    send_activation(near);
    send_gradient(near_back);
  }
  void pair(int near, int near_back) {
    receive_activation(near);
    overlapped(near, near_back);
  }

  // (1) and (2). Away from the middle F0's output leaves after F1, when the neighbour gets round to it; the
  // receive for the F0 to come is posted before F1.
  void fill(int outside, int inside) {
    for (int i = 0; i < 2 * outside; ++i) {
      receive_activation(0);
      forward(0);
      send_activation(0);
    }
    receive_activation(0);
    for (int i = 0; i < inside; ++i) {
      forward(0);
      if (is_middle()) send_activation(0);
      receive_activation(0);
      receive_activation(1);
      forward(1);
      if (!is_middle() || i < inside - 1) send_activation(1);
      if (!is_middle()) send_activation(0);
    }
  }

  // The first pair of (4): its activation was received in (2). The middle ranks run F0 and B1 one after the
  // other, which shortens the bubble, and send the last F1 of (2) only then.
  void first_pair() {
    if (!is_middle()) return overlapped(0, 1);
    forward(0);
    send_activation(1);
    receive_gradient(1);
    backward_alone(1, StepKind::kBackward);
    send_activation(0);
    send_gradient(1);
  }

  // (6), (7), (8): B1 B0 with the second half split, W B0, W. With depth_ odd the split begins at a B1, else
  // at the B0 after it.
  void drain(int outside, int inside) {
    const int first_split = 2 * (inside / 2) + (depth_ % 2 == 1 ? 0 : 1);
    for (int i = 0; i < 2 * inside; ++i)
      backward(i % 2 == 0 ? 1 : 0, i < first_split ? StepKind::kBackward : StepKind::kBackwardInput);
    for (int i = 0; i < outside; ++i) {
      weight();
      backward(0, StepKind::kBackwardInput);
    }
    for (int i = 0; i < inside; ++i) weight();
  }

  Steps steps_;
  bool far_half_;
  int per_direction_ = 0, half_ = 0, depth_ = 0;
  std::array<int, 2> first_of_chunk_{};
  std::array<Counters, 2> counters_;
  std::vector<Step> deferred_;
  size_t next_weight_ = 0;
};

std::vector<Step> folded(ScheduleKind kind, int rank, int ranks, int micro_batches) {
  check_schedule_arguments(kind, ranks, micro_batches);
  check_rank(rank, ranks);
  return Folded(kind, rank, ranks, micro_batches).build();
}

}  // namespace

std::vector<Step> one_f_one_b(int rank, int ranks, int micro_batches) {
  return one_direction(ScheduleKind::kOneFOneB, rank, ranks, micro_batches, false);
}

std::vector<Step> zb1p(int rank, int ranks, int micro_batches) {
  return one_direction(ScheduleKind::kZb1p, rank, ranks, micro_batches, true);
}

std::vector<Step> dual_pipe(int rank, int ranks, int micro_batches) {
  return folded(ScheduleKind::kDualPipe, rank, ranks, micro_batches);
}

std::vector<Step> dual_pipe_v(int rank, int ranks, int micro_batches) {
  return folded(ScheduleKind::kDualPipeV, rank, ranks, micro_batches);
}

Schedule make_schedule(ScheduleKind kind, int ranks, int micro_batches) {
  check_schedule_arguments(kind, ranks, micro_batches);
  constexpr std::array kBuilders = {one_f_one_b, zb1p, dual_pipe, dual_pipe_v};
  Schedule schedule{kind, ranks, micro_batches, {}};
  for (int rank = 0; rank < ranks; ++rank)
    schedule.steps.push_back(kBuilders.at(static_cast<size_t>(kind))(rank, ranks, micro_batches));
  return schedule;
}

}  // namespace moray
