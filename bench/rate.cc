#include "bench/rate.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace moray {

namespace {

using Clock = std::chrono::steady_clock;

// All threads leave within a fraction of a microsecond where each has a core; yields where they share one.
class Barrier {
 public:
  explicit Barrier(int threads) : threads_(threads) {}
  void wait() {
    const int round = round_;
    if (++arrived_ == threads_) {
      arrived_ = 0;
      ++round_;
      return;
    }
    for (int spins = 0; round_ == round; ++spins)
      if (spins > kSpins) std::this_thread::yield();
  }

 private:
  static constexpr int kSpins = 2000;
  const int threads_;
  std::atomic<int> arrived_ = 0, round_ = 0;
};

// The calling thread stays on one of the cores it may use, so that threads do not end up sharing one.
void stay_on_core(int thread) {
  cpu_set_t allowed, one;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  int skip = thread % std::max(1, CPU_COUNT(&allowed));
  for (size_t core = 0; core < CPU_SETSIZE; ++core) {
    if (!CPU_ISSET(core, &allowed) || skip-- > 0) continue;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    sched_setaffinity(0, sizeof(one), &one);
    return;
  }
}

}  // namespace

Rate rate_on_threads(int threads, double work, double seconds, const std::function<void(int)>& body) {
  constexpr size_t kLeastRepeats = 5;
  const auto deadline = Clock::now() + std::chrono::duration<double>(seconds);
  Barrier barrier(threads);
  std::vector<Clock::time_point> begin(static_cast<size_t>(threads)), end = begin;
  std::vector<double> rates;
  bool done = false;  // written by thread 0 between two barriers
  const auto repeat = [&](int thread) {
    stay_on_core(thread);
    body(thread);  // warms up
    while (true) {
      barrier.wait();
      if (done) return;
      begin[static_cast<size_t>(thread)] = Clock::now();
      body(thread);
      end[static_cast<size_t>(thread)] = Clock::now();
      barrier.wait();
      if (thread != 0) continue;
      const std::chrono::duration<double> spent =
          *std::max_element(end.begin(), end.end()) - *std::min_element(begin.begin(), begin.end());
      rates.push_back(work / spent.count());
      done = rates.size() >= kLeastRepeats && Clock::now() > deadline;
    }
  };
  std::vector<std::thread> workers;
  for (int thread = 0; thread < threads; ++thread) workers.emplace_back(repeat, thread);
  for (std::thread& worker : workers) worker.join();
  std::sort(rates.begin(), rates.end());
  return {rates.back(), rates[rates.size() / 2]};
}

}  // namespace moray
