// A small fork-join pool: static work splits, workers that spin briefly and then sleep.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

namespace moray {

class ThreadPool {
 public:
  explicit ThreadPool(int threads);  // including the calling thread; at least 1. Error when the system refuses
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
