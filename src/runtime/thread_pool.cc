#include "runtime/thread_pool.h"

#include <immintrin.h>
#include <sched.h>

#include <cstdlib>
#include <system_error>

#include "base/error.h"

namespace moray {

namespace {
// About 20 microseconds: longer than the gap between two kernels, short enough not to starve a neighbour
// process.
constexpr int kSpins = 2000;

// The pool's number of the thread we are on, so that an inline (nested) call keeps its own scratch memory.
thread_local int current_thread = 0;

template <class Done>
bool spin_until(const Done& done) {
  for (int i = 0; i < kSpins; ++i) {
    if (done()) return true;
    _mm_pause();
  }
  return false;
}
}  // namespace

ThreadPool::ThreadPool(int threads) {
  MORAY_CHECK(threads >= 1);
  try {
    for (int thread = 1; thread < threads; ++thread) workers_.emplace_back([this, thread] { work(thread); });
  } catch (const std::system_error& error) {
    const size_t started = workers_.size() + 1;
    stop();
    fail("cannot start {} threads: the system refused after {}: {}", threads, started, error.what());
  }
}

ThreadPool::~ThreadPool() {
  stop();
}

void ThreadPool::stop() {
  stopping_ = true;
  ++generation_;
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}

void ThreadPool::run(const Job& job) {
  if (job.count <= 0) return;
  if (job.count == 1 || workers_.empty() || running_.exchange(true)) {
    for (int64_t index = 0; index < job.count; ++index) job.invoke(job.body, index, current_thread);
    return;
  }
  job_ = job;
  next_index_.store(0, std::memory_order_relaxed);
  busy_workers_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  drain(0);
  const auto done = [this] { return busy_workers_.load(std::memory_order_acquire) == 0; };
  while (!spin_until(done)) {
    const int busy = busy_workers_.load(std::memory_order_acquire);
    if (busy != 0) busy_workers_.wait(busy, std::memory_order_acquire);
  }
  running_.store(false, std::memory_order_release);
}

void ThreadPool::drain(int thread) noexcept {
  const Job job = job_;
  for (;;) {
    const int64_t index = next_index_.fetch_add(1, std::memory_order_relaxed);
    if (index >= job.count) return;
    job.invoke(job.body, index, thread);
  }
}

void ThreadPool::work(int thread) {
  current_thread = thread;
  uint32_t seen = 0;
  for (;;) {
    const auto woken = [&] { return generation_.load(std::memory_order_acquire) != seen; };
    while (!spin_until(woken)) generation_.wait(seen, std::memory_order_acquire);
    ++seen;
    if (stopping_) return;
    drain(thread);
    if (busy_workers_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_workers_.notify_one();
  }
}

int resolve_threads(int asked) {
  if (asked > 0) return asked;
  if (const char* variable = std::getenv("MORAY_THREADS"); variable != nullptr && *variable != '\0') {
    char* end = nullptr;
    const long value = std::strtol(variable, &end, 10);
    if (*end != '\0' || value < 1 || value > 4096)
      fail("MORAY_THREADS: '{}' is no number of threads", variable);
    return static_cast<int>(value);
  }
  cpu_set_t set;
  if (::sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

}  // namespace moray
