// A small fork-join pool: static work splits, workers that spin briefly and then sleep.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace moray {

class ThreadPool {
 public:
  explicit ThreadPool(
      int threads);  // including the calling thread; at least 1. Error when the system refuses
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // body(index, thread) for every index in [0, count), handed out one at a time in ascending order (so a body
  // may wait for a smaller index); returns when all are done. Which thread runs an index is open: results may
  // depend on `index` alone (`thread` chooses scratch memory). Not reentrant: a call from inside a body runs
  // inline. An exception in a body is a broken invariant: it ends the program with its message, on whichever
  // thread, because other bodies may be running or waiting for this one.
  template <class Body>
  void for_each(int64_t count, const Body& body) {
    run({count, &body,
         [](const void* b, int64_t index, int thread) { (*static_cast<const Body*>(b))(index, thread); }});
  }

  // The same in another order: each thread goes along a stretch of neighbouring indices of its own, then
  // takes over what is left of others', from their ends. For bodies that read memory in the order of their
  // indices: a core reads one long stretch quicker than many short ones (docs/results/serving-speed.md). A
  // body may not wait for another.
  template <class Body>
  void for_stretches(int64_t count, const Body& body) {
    std::vector<Stretch> stretches(static_cast<size_t>(threads()));
    const auto share = [&](size_t s) {
      return count * static_cast<int64_t>(s) / static_cast<int64_t>(stretches.size());
    };
    for (size_t s = 0; s < stretches.size(); ++s) stretches[s].set(share(s), share(s + 1));
    for_each(threads(), [&](int64_t own, int thread) {
      for (size_t s = 0; s < stretches.size(); ++s) {
        Stretch& stretch = stretches[(static_cast<size_t>(own) + s) % stretches.size()];
        for (int64_t index; (index = s == 0 ? stretch.take_first() : stretch.take_last()) >= 0;)
          body(index, thread);
      }
    });
  }

  // body(begin, end, thread) over [0, count) in pieces of `piece` elements (the last may be short).
  template <class Body>
  void for_ranges(int64_t count, int64_t piece, const Body& body) {
    for_each((count + piece - 1) / piece, [&](int64_t index, int thread) {
      const int64_t begin = index * piece;
      body(begin, begin + piece < count ? begin + piece : count, thread);
    });
  }

 private:
  struct Job {
    int64_t count = 0;
    const void* body = nullptr;
    void (*invoke)(const void*, int64_t, int) = nullptr;
  };
  // Indices [first, end) that nobody has taken yet.
  class alignas(64) Stretch {
   public:
    void set(int64_t first, int64_t end) { ends_ = pack(first, end); }
    int64_t take_first() {
      return take([](uint32_t first, uint32_t end) { return std::pair{pack(first + 1, end), first}; });
    }
    int64_t take_last() {
      return take([](uint32_t first, uint32_t end) { return std::pair{pack(first, end - 1), end - 1}; });
    }

   private:
    static uint64_t pack(int64_t first, int64_t end) {
      return static_cast<uint64_t>(first) << 32 | static_cast<uint32_t>(end);
    }
    // What `split` takes, or -1.
    template <class Split>
    int64_t take(const Split& split) {
      uint64_t ends = ends_.load(std::memory_order_relaxed);
      for (;;) {
        const auto first = static_cast<uint32_t>(ends >> 32), end = static_cast<uint32_t>(ends);
        if (first == end) return -1;
        const auto [rest, taken] = split(first, end);
        if (ends_.compare_exchange_weak(ends, rest, std::memory_order_relaxed)) return taken;
      }
    }

    std::atomic<uint64_t> ends_ = 0;
  };

  void run(const Job& job);
  void work(int thread);
  void stop();
  void drain(int thread) noexcept;

  std::vector<std::thread> workers_;
  Job job_;
  std::atomic<int64_t> next_index_ = 0;
  std::atomic<int> busy_workers_ = 0;
  std::atomic<uint32_t> generation_ = 0;
  std::atomic<bool> stopping_ = false;
  std::atomic<bool> running_ = false;
};

// The number of threads a command uses: `asked` when positive, else MORAY_THREADS, else the cores this
// process may run on.
int resolve_threads(int asked);

}  // namespace moray
