#include "runtime/thread_pool.h"

#include <gtest/gtest.h>

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
