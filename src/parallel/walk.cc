#include "parallel/walk.h"

#include <algorithm>
#include <deque>
#include <map>
#include <tuple>

#include "base/error.h"

namespace moray {

Channels find_channels(const Schedule& schedule) {
  Channels channels;
  std::map<std::tuple<int, int, StepKind>, int> index;
  for (int rank = 0; rank < static_cast<int>(schedule.steps.size()); ++rank) {
    const std::vector<Step>& steps = schedule.steps[static_cast<size_t>(rank)];
    std::vector<int>& of_step = channels.of_step.emplace_back(steps.size(), -1);
    std::vector<int>& sequence = channels.sequence.emplace_back(steps.size(), -1);
    for (size_t i = 0; i < steps.size(); ++i) {
      if (is_compute(steps[i])) continue;
      const bool send = is_send(steps[i]);
      const bool activation =
          steps[i].kind == StepKind::kSendActivation || steps[i].kind == StepKind::kReceiveActivation;
      const StepKind kind = activation ? StepKind::kSendActivation : StepKind::kSendGradient;
      const int from = send ? rank : steps[i].peer, to = send ? steps[i].peer : rank;
      const auto [at, is_new] = index.try_emplace({from, to, kind}, static_cast<int>(channels.ends.size()));
      if (is_new) channels.ends.push_back({from, to, kind, {}, {}});
      Channels::Ends& ends = channels.ends[static_cast<size_t>(at->second)];
      std::vector<int>& side = send ? ends.sends : ends.receives;
      of_step[i] = at->second;
      sequence[i] = static_cast<int>(side.size());
      side.push_back(static_cast<int>(i));
    }
  }
  return channels;
}

namespace {

class Walker {
 public:
  Walker(const Schedule& schedule, const StepCost& cost, const HopCost& hop, const WalkOptions& options)
      : schedule_(schedule),
        cost_(cost),
        hop_(hop),
        options_(options),
        channels_(find_channels(schedule)),
        traffic_(channels_.ends.size()),
        ranks_(schedule.steps.size()),
        queued_(schedule.steps.size(), true) {
    for (size_t rank = 0; rank < schedule.steps.size(); ++rank) {
      walk_.spans.emplace_back(schedule.steps[rank].size());
      ready_.push_back(static_cast<int>(rank));
    }
    walk_.waits.resize(schedule.steps.size());
  }

  Walk run() {
    while (!ready_.empty()) {
      const int rank = ready_.front();
      ready_.pop_front();
      queued_[static_cast<size_t>(rank)] = false;
      advance(rank);
    }
    for (const Wait& wait : walk_.waits) walk_.complete &= wait.step < 0;
    return std::move(walk_);
  }

 private:
  struct Traffic {
    std::vector<double> arrived, posted;  // [message] when it arrives; when its receive was posted
  };
  struct Rank {
    double now = 0;
    size_t next = 0;       // step to come
    size_t batch_end = 0;  // > next: the batch from `next` is posted
  };

  void wake(int rank) {
    if (queued_[static_cast<size_t>(rank)]) return;
    queued_[static_cast<size_t>(rank)] = true;
    ready_.push_back(rank);
  }

  void advance(int rank) {
    const std::vector<Step>& steps = schedule_.steps[static_cast<size_t>(rank)];
    std::vector<StepSpan>& spans = walk_.spans[static_cast<size_t>(rank)];
    Rank& at = ranks_[static_cast<size_t>(rank)];
    while (at.next < steps.size()) {
      if (is_compute(steps[at.next])) {
        const double cost = cost_(rank, steps[at.next]);
        spans[at.next] = {at.now, at.now + cost};
        at.now += cost;
        ++at.next;
        continue;
      }
      if (at.batch_end <= at.next) post_batch(rank);
      if (!finish_batch(rank)) return;
    }
    walk_.waits[static_cast<size_t>(rank)] = {};
  }

  void post_batch(int rank) {
    const std::vector<Step>& steps = schedule_.steps[static_cast<size_t>(rank)];
    Rank& at = ranks_[static_cast<size_t>(rank)];
    at.batch_end = at.next;
    do {
      const Step& step = steps[at.batch_end];
      Traffic& traffic = traffic_[channel(rank, at.batch_end)];
      if (is_send(step))
        traffic.arrived.push_back(at.now + (hop_ ? hop_(rank, step.peer, step) : 0.0));
      else
        traffic.posted.push_back(at.now);
      wake(step.peer);
      ++at.batch_end;
    } while (options_.batched && at.batch_end < steps.size() && !is_compute(steps[at.batch_end]));
  }

  bool finish_batch(int rank) {
    Rank& at = ranks_[static_cast<size_t>(rank)];
    std::vector<StepSpan>& spans = walk_.spans[static_cast<size_t>(rank)];
    double done = at.now;
    for (size_t i = at.next; i < at.batch_end; ++i) {
      spans[i] = {at.now, at.now};
      if (!finish_one(rank, i, spans[i].end)) return false;
      done = std::max(done, spans[i].end);
    }
    at.now = done;
    at.next = at.batch_end;
    return true;
  }

  // Raises `end` to the time the send or receive is over, or notes what it waits for.
  bool finish_one(int rank, size_t step, double& end) {
    const Channels::Ends& ends = channels_.ends[channel(rank, step)];
    const Traffic& traffic = traffic_[channel(rank, step)];
    const int sequence = channels_.sequence[static_cast<size_t>(rank)][step];
    Wait& wait = walk_.waits[static_cast<size_t>(rank)];
    if (is_send(schedule_.steps[static_cast<size_t>(rank)][step])) {
      // A send takes the buffer of the message `buffers` before it, once that has been received.
      if (options_.buffers == kUnbounded || sequence < options_.buffers) return true;
      const auto freeing = static_cast<size_t>(sequence - options_.buffers);
      if (freeing < traffic.posted.size()) {
        end = std::max({end, traffic.posted[freeing], traffic.arrived[freeing]});
        return true;
      }
      wait = {static_cast<int>(step), ends.to, freeing < ends.receives.size() ? ends.receives[freeing] : -1};
      return false;
    }
    const auto message = static_cast<size_t>(sequence);
    if (message < traffic.arrived.size()) {
      end = std::max(end, traffic.arrived[message]);
      return true;
    }
    wait = {static_cast<int>(step), ends.from, message < ends.sends.size() ? ends.sends[message] : -1};
    return false;
  }

  size_t channel(int rank, size_t step) const {
    return static_cast<size_t>(channels_.of_step[static_cast<size_t>(rank)][step]);
  }

  const Schedule& schedule_;
  const StepCost& cost_;
  const HopCost& hop_;
  const WalkOptions options_;
  const Channels channels_;
  std::vector<Traffic> traffic_;
  std::vector<Rank> ranks_;
  std::vector<bool> queued_;
  std::deque<int> ready_;
  Walk walk_;
};

}  // namespace

Walk walk_schedule(const Schedule& schedule, const StepCost& cost, const HopCost& hop,
                   const WalkOptions& options) {
  for (const std::vector<Step>& steps : schedule.steps)
    for (const Step& step : steps)
      MORAY_CHECK(is_compute(step) ||
                  (step.peer >= 0 && step.peer < static_cast<int>(schedule.steps.size())));
  return Walker(schedule, cost, hop, options).run();
}

}  // namespace moray
