#include "runtime/thread_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <stdexcept>

namespace moray {
namespace {

TEST(ThreadPool, RunsEveryIndexOnce) {
  for (int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 2000; ++round) {
      std::vector<int> hits(static_cast<size_t>(round % 37), 0);
      pool.for_each(static_cast<int64_t>(hits.size()),
                    [&](int64_t i, int) { ++hits[static_cast<size_t>(i)]; });
      EXPECT_EQ(std::accumulate(hits.begin(), hits.end(), 0), static_cast<int>(hits.size()));
    }
  }
}

TEST(ThreadPool, StretchesRunEveryIndexOnce) {
  for (int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 2000; ++round) {
      std::vector<int> hits(static_cast<size_t>(round % 37), 0);
      pool.for_stretches(static_cast<int64_t>(hits.size()),
                         [&](int64_t i, int) { ++hits[static_cast<size_t>(i)]; });
      EXPECT_EQ(std::count(hits.begin(), hits.end(), 1), static_cast<int64_t>(hits.size()));
    }
  }
}

TEST(ThreadPool, AThreadGoesAlongItsStretchAndThenTakesOver) {
  ThreadPool alone(1);
  std::vector<int64_t> order;
  alone.for_stretches(4, [&](int64_t i, int) { order.push_back(i); });
  EXPECT_EQ(order, (std::vector<int64_t>{0, 1, 2, 3}));

  // The thread that takes index 0 waits until the other has done all the rest, the end of its stretch
  // included.
  ThreadPool pool(2);
  std::atomic<int> done = 0;
  std::vector<int64_t> others;
  pool.for_stretches(10, [&](int64_t i, int) {
    if (i == 0) {
      while (done != 9) std::this_thread::yield();
    } else {
      others.push_back(i);
      ++done;
    }
  });
  EXPECT_EQ(others, (std::vector<int64_t>{5, 6, 7, 8, 9, 4, 3, 2, 1}));
}

TEST(ThreadPool, NestedCallsRunInline) {
  ThreadPool pool(2);
  std::atomic<int> total = 0;
  pool.for_each(4, [&](int64_t, int) { pool.for_each(3, [&](int64_t, int) { ++total; }); });
  EXPECT_EQ(total, 12);
}

// The caller must not unwind what workers still run, nor leave one waiting for an index that failed.
TEST(ThreadPoolDeathTest, AnExceptionInABodyEndsTheProgramOnEveryThread) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto throw_on = [](bool caller) {
    ThreadPool pool(2);
    for (;;)
      pool.for_each(64, [&](int64_t, int thread) {
        if ((thread == 0) == caller) throw std::runtime_error("no memory");
      });
  };
  EXPECT_DEATH(throw_on(true), "no memory");
  EXPECT_DEATH(throw_on(false), "no memory");
}

TEST(ThreadPool, RangesCoverTheWhole) {
  ThreadPool pool(3);
  std::vector<int> hits(1001, 0);
  pool.for_ranges(1001, 100, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) ++hits[static_cast<size_t>(i)];
  });
  for (int hit : hits) EXPECT_EQ(hit, 1);
}

}  // namespace
}  // namespace moray
