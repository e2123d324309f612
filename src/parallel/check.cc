#include "parallel/check.h"

#include <algorithm>
#include <map>

#include "base/error.h"
#include "parallel/walk.h"

namespace moray {

namespace {

constexpr size_t kMostRanksNamed = 8;  // of a cycle, in a message

// A schedule's first fault, thrown to end the check.
struct Fault {
  std::string what;
};

template <class... Args>
[[noreturn]] void fault(const Schedule& schedule, int rank, int step, fmt::format_string<Args...> format,
                        Args&&... args) {
  const Step& at = schedule.steps[static_cast<size_t>(rank)][static_cast<size_t>(step)];
  throw Fault{fmt::format("rank {}, step {} ({}): ", rank, step, step_name(at)) +
              fmt::format(format, std::forward<Args>(args)...)};
}

std::string place(const Schedule& schedule, int rank, int step) {
  return fmt::format("rank {}, step {} ({})", rank, step,
                     step_name(schedule.steps[static_cast<size_t>(rank)][static_cast<size_t>(step)]));
}

// Micro-batches, chunks and peers exist and are those of the schedule's kind.
void check_places(const Schedule& schedule) {
  check_schedule_arguments(schedule.kind, schedule.ranks, schedule.micro_batches);
  if (schedule.steps.size() != static_cast<size_t>(schedule.ranks))
    throw Fault{fmt::format("{} ranks but steps for {}", schedule.ranks, schedule.steps.size())};
  const auto check_chunk = [&](int rank, int i, int micro_batch, int chunk) {
    if (micro_batch < 0 || micro_batch >= schedule.micro_batches)
      fault(schedule, rank, i, "no micro-batch {} among {}", micro_batch, schedule.micro_batches);
    if (chunk < 0 || chunk >= chunks_per_rank(schedule.kind))
      fault(schedule, rank, i, "no chunk {} on a rank", chunk);
    if (!visits(schedule, micro_batch, chunk))
      fault(schedule, rank, i, "micro-batch {} does not pass through chunk {}", micro_batch, chunk);
  };
  for (int rank = 0; rank < schedule.ranks; ++rank) {
    const std::vector<Step>& steps = schedule.steps[static_cast<size_t>(rank)];
    for (int i = 0; i < static_cast<int>(steps.size()); ++i) {
      const Step& step = steps[static_cast<size_t>(i)];
      if (step.kind > StepKind::kReceiveGradient) fault(schedule, rank, i, "no such kind");
      check_chunk(rank, i, step.micro_batch, step.chunk);
      if (step.kind == StepKind::kPair) check_chunk(rank, i, step.backward_micro_batch, step.backward_chunk);
      if (is_compute(step)) continue;
      const bool onward = step.kind == StepKind::kSendActivation || step.kind == StepKind::kReceiveGradient;
      const int peer = onward ? rank_after(schedule.kind, rank, step.chunk, schedule.ranks)
                              : rank_before(schedule.kind, rank, step.chunk, schedule.ranks);
      if (peer < 0 || peer == rank) fault(schedule, rank, i, "this stage has no other rank on that side");
      if (step.peer != peer) fault(schedule, rank, i, "the stage on that side is on rank {}", peer);
    }
  }
}

// One rank's steps in program order: each once, after what it needs.
class RankOrder {
 public:
  RankOrder(const Schedule& schedule, int rank)
      : schedule_(schedule),
        rank_(rank),
        chunks_(chunks_per_rank(schedule.kind)),
        done_(static_cast<size_t>(schedule.micro_batches) * static_cast<size_t>(chunks_), 0) {}

  PeakActivations run() {
    const std::vector<Step>& steps = schedule_.steps[static_cast<size_t>(rank_)];
    for (at_ = 0; at_ < static_cast<int>(steps.size()); ++at_) take(steps[static_cast<size_t>(at_)]);
    for (int chunk = 0; chunk < chunks_; ++chunk)
      for (int i = 0; i < schedule_.micro_batches; ++i)
        if (visits(schedule_, i, chunk)) check_end(i, chunk);
    return peak_;
  }

 private:
  enum Done : uint8_t {
    kForward = 1,
    kBackward = 2,
    kWeight = 4,
    kActivationIn = 8,
    kActivationOut = 16,
    kGradientIn = 32,
    kGradientOut = 64
  };

  void take(const Step& step) {
    const int micro_batch = step.micro_batch, chunk = step.chunk;
    switch (step.kind) {
      case StepKind::kForward:
        begin_forward(micro_batch, chunk);
        break;
      case StepKind::kBackward:
        begin_backward(micro_batch, chunk);
        end_whole_backward(micro_batch, chunk);
        break;
      case StepKind::kBackwardInput:
        begin_backward(micro_batch, chunk);
        set(micro_batch, chunk, kBackward);
        --now_.saved;
        peak_.deferred = std::max(peak_.deferred, ++now_.deferred);
        break;
      case StepKind::kBackwardWeight:
        once(micro_batch, chunk, kWeight, "W");
        need(micro_batch, chunk, kBackward, "its B");
        set(micro_batch, chunk, kWeight);
        --now_.deferred, --now_.live;
        break;
      case StepKind::kPair:
        begin_backward(step.backward_micro_batch, step.backward_chunk);
        begin_forward(micro_batch, chunk);
        end_whole_backward(step.backward_micro_batch, step.backward_chunk);
        break;
      case StepKind::kSendActivation:
        move(step, kActivationOut, kForward, "its F");
        break;
      case StepKind::kSendGradient:
        move(step, kGradientOut, kBackward, "its B");
        break;
      case StepKind::kReceiveActivation:
        move(step, kActivationIn, 0, "");
        break;
      case StepKind::kReceiveGradient:
        move(step, kGradientIn, 0, "");
        break;
    }
  }

  void begin_forward(int micro_batch, int chunk) {
    once(micro_batch, chunk, kForward, "F");
    const int from = rank_before(schedule_.kind, rank_, chunk, schedule_.ranks);
    if (from == rank_)
      need(micro_batch, 0, kForward, "F on the stage before");
    else if (from >= 0)
      need(micro_batch, chunk, kActivationIn, "its activation");
    set(micro_batch, chunk, kForward);
    peak_.live = std::max(peak_.live, ++now_.live);
    peak_.saved = std::max(peak_.saved, ++now_.saved);
  }

  void begin_backward(int micro_batch, int chunk) {
    once(micro_batch, chunk, kBackward, "B");
    need(micro_batch, chunk, kForward, "its F");
    const int from = rank_after(schedule_.kind, rank_, chunk, schedule_.ranks);
    if (from == rank_)
      need(micro_batch, 1, kBackward, "B on the stage after");
    else if (from >= 0)
      need(micro_batch, chunk, kGradientIn, "its gradient");
  }

  void end_whole_backward(int micro_batch, int chunk) {
    set(micro_batch, chunk, kBackward);
    set(micro_batch, chunk, kWeight);
    --now_.saved, --now_.live;
  }

  void move(const Step& step, Done what, int needed, const char* name) {
    once(step.micro_batch, step.chunk, what, "one");
    if (needed != 0) need(step.micro_batch, step.chunk, needed, name);
    set(step.micro_batch, step.chunk, what);
  }

  uint8_t& done(int micro_batch, int chunk) {
    return done_[static_cast<size_t>(micro_batch) * static_cast<size_t>(chunks_) +
                 static_cast<size_t>(chunk)];
  }
  void set(int micro_batch, int chunk, int what) { done(micro_batch, chunk) |= static_cast<uint8_t>(what); }
  void once(int micro_batch, int chunk, int what, const char* name) {
    if (done(micro_batch, chunk) & what)
      fault(schedule_, rank_, at_, "micro-batch {} chunk {} already had {}", micro_batch, chunk, name);
  }
  void need(int micro_batch, int chunk, int what, const char* name) {
    if (!(done(micro_batch, chunk) & what))
      fault(schedule_, rank_, at_, "micro-batch {} chunk {} comes before {}", micro_batch, chunk, name);
  }

  void check_end(int micro_batch, int chunk) {
    const auto missing = [&](int what, const char* name) {
      if (!(done(micro_batch, chunk) & what))
        throw Fault{fmt::format("rank {}, at its end: micro-batch {} chunk {} has no {}", rank_, micro_batch,
                                chunk, name)};
    };
    const auto elsewhere = [&](int other) { return other >= 0 && other != rank_; };
    missing(kForward, "F");
    missing(kBackward, "B");
    missing(kWeight, "W");
    if (elsewhere(rank_after(schedule_.kind, rank_, chunk, schedule_.ranks)))
      missing(kActivationOut, "send of its activation");
    if (elsewhere(rank_before(schedule_.kind, rank_, chunk, schedule_.ranks)))
      missing(kGradientOut, "send of its gradient");
  }

  const Schedule& schedule_;
  const int rank_, chunks_;
  int at_ = 0;
  std::vector<uint8_t> done_;  // bits of Done
  PeakActivations now_, peak_;
};

// What a message is, the same seen from both ends: activations by the stage they enter, gradients likewise.
int message_stage(const Schedule& schedule, int rank, const Step& step) {
  const int stage = stage_of(schedule.kind, rank, step.chunk, schedule.ranks);
  if (step.kind == StepKind::kSendActivation) return stage + 1;
  if (step.kind == StepKind::kSendGradient) return stage - 1;
  return stage;
}

void check_messages(const Schedule& schedule, const Channels& channels) {
  for (const Channels::Ends& ends : channels.ends) {
    const auto& sender = schedule.steps[static_cast<size_t>(ends.from)];
    const auto& receiver = schedule.steps[static_cast<size_t>(ends.to)];
    for (size_t i = 0; i < std::max(ends.sends.size(), ends.receives.size()); ++i) {
      if (i >= ends.receives.size())
        fault(schedule, ends.from, ends.sends[i], "nobody receives this, the {}-th of its kind to rank {}", i,
              ends.to);
      if (i >= ends.sends.size())
        fault(schedule, ends.to, ends.receives[i], "nobody sends this, the {}-th of its kind from rank {}", i,
              ends.from);
      const Step& send = sender[static_cast<size_t>(ends.sends[i])];
      const Step& receive = receiver[static_cast<size_t>(ends.receives[i])];
      if (send.micro_batch != receive.micro_batch ||
          message_stage(schedule, ends.from, send) != message_stage(schedule, ends.to, receive))
        fault(schedule, ends.to, ends.receives[i], "meets another message: {}",
              place(schedule, ends.from, ends.sends[i]));
    }
  }
}

// Kinds and micro-batches between each two ranks in the order sent equal those in the order received.
bool meet_in_one_queue(const Schedule& schedule, const Channels& channels) {
  using Queue = std::vector<std::pair<int, int>>;  // (channel, message)
  std::map<std::pair<int, int>, std::pair<Queue, Queue>> queues;
  for (size_t rank = 0; rank < schedule.steps.size(); ++rank)
    for (size_t i = 0; i < schedule.steps[rank].size(); ++i) {
      const int channel = channels.of_step[rank][i];
      if (channel < 0) continue;
      const Channels::Ends& ends = channels.ends[static_cast<size_t>(channel)];
      auto& queue = queues[{ends.from, ends.to}];
      (is_send(schedule.steps[rank][i]) ? queue.first : queue.second)
          .emplace_back(channel, channels.sequence[rank][i]);
    }
  return std::all_of(queues.begin(), queues.end(),
                     [](const auto& queue) { return queue.second.first == queue.second.second; });
}

// Follows who waits for whom until a rank comes up again.
std::string deadlock(const Schedule& schedule, const std::vector<Wait>& waits) {
  int rank = 0;
  while (waits[static_cast<size_t>(rank)].step < 0) ++rank;
  std::vector<int> path;
  while (std::find(path.begin(), path.end(), rank) == path.end()) {
    path.push_back(rank);
    rank = waits[static_cast<size_t>(rank)].on_rank;
  }
  path.erase(path.begin(), std::find(path.begin(), path.end(), rank));
  std::string text = "deadlock: ";
  for (size_t i = 0; i < std::min(path.size(), kMostRanksNamed); ++i) {
    const Wait& wait = waits[static_cast<size_t>(path[i])];
    text += fmt::format("{} waits for {}; ", place(schedule, path[i], wait.step),
                        place(schedule, wait.on_rank, wait.on_step));
  }
  if (path.size() > kMostRanksNamed) text += fmt::format("and so on, {} ranks in a circle; ", path.size());
  return text.substr(0, text.size() - 2);
}

void check_progress(const Schedule& schedule, const CheckOptions& options) {
  const StepCost no_time = [](int, const Step&) { return 0.0; };
  const Walk walk = walk_schedule(schedule, no_time, {}, {options.buffers, options.batched});
  if (!walk.complete) throw Fault{deadlock(schedule, walk.waits)};
}

}  // namespace

Verdict check_schedule(const Schedule& schedule, const CheckOptions& options) {
  MORAY_CHECK(options.buffers >= 0 && options.most_live >= 0);
  Verdict verdict;
  try {
    check_places(schedule);
    std::vector<PeakActivations> peaks;
    for (int rank = 0; rank < schedule.ranks; ++rank) peaks.push_back(RankOrder(schedule, rank).run());
    for (const PeakActivations& peak : peaks) {
      verdict.peak.live = std::max(verdict.peak.live, peak.live);
      verdict.peak.saved = std::max(verdict.peak.saved, peak.saved);
      verdict.peak.deferred = std::max(verdict.peak.deferred, peak.deferred);
    }
    verdict.peaks = std::move(peaks);
    const Channels channels = find_channels(schedule);
    check_messages(schedule, channels);
    verdict.in_order_in_one_queue = meet_in_one_queue(schedule, channels);
    check_progress(schedule, options);
    for (int rank = 0; rank < schedule.ranks && options.most_live > 0; ++rank)
      if (const int live = verdict.peaks[static_cast<size_t>(rank)].live; live > options.most_live)
        throw Fault{fmt::format("rank {} holds activations of {} chunks at a time; the limit is {}", rank,
                                live, options.most_live)};
    verdict.ok = true;
  } catch (const Fault& found) {
    verdict.problem = found.what;
  } catch (const Error& error) {
    verdict.problem = error.what();
  }
  return verdict;
}

}  // namespace moray
