#include "bench/bandwidth.h"

#include <fmt/format.h>
#include <immintrin.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>

#include "backend/cpu/caches.h"
#include "base/error.h"

namespace moray {

namespace {

constexpr int64_t kLineBytes = 64;
constexpr int64_t kSkewLines = 36;  // not a multiple of any cache's sets

#pragma GCC push_options
#pragma GCC target("avx2")
namespace avx2 {
#include "bench/bandwidth-inl.h"
}
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,avx512f")
namespace avx512 {
#include "bench/bandwidth-inl.h"
}
#pragma GCC pop_options

double bytes_moved(Traffic traffic, int streams, int64_t lines) {
  int64_t moved = lines;
  if (traffic == Traffic::copy || traffic == Traffic::stream_copy)
    moved = 2 * (lines / 2 / avx2::kUnroll * avx2::kUnroll);
  if (traffic == Traffic::update) moved = 2 * lines;
  if (traffic == Traffic::read && streams > 1)
    moved = streams * ((lines / streams - kSkewLines) / avx2::kUnroll * avx2::kUnroll);
  return static_cast<double>(moved * kLineBytes);
}

}  // namespace

BandwidthProbe::BandwidthProbe(int threads, int64_t bytes_a_thread) : bytes_a_thread_(bytes_a_thread) {
  constexpr int64_t kBeyondCaches = 8, kLeastBytes = int64_t{256} << 20, kMostBytes = int64_t{1} << 30;
  if (bytes_a_thread_ == 0)
    bytes_a_thread_ =
        std::clamp(kBeyondCaches * cpu::machine_caches().l3_bytes, kLeastBytes, kMostBytes) / threads;
  bytes_a_thread_ = bytes_a_thread_ / (64 * kLineBytes) * (64 * kLineBytes);
  memory_.resize(static_cast<size_t>(threads));
  for (void*& memory : memory_) {
    const auto bytes = static_cast<size_t>(bytes_a_thread_);
    memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail("out of memory: {} bytes for a bandwidth probe", bytes);
    madvise(memory, bytes, MADV_HUGEPAGE);
  }
  // A page that was never written is a page of zeros that all share, and sits in the caches.
  measure(Traffic::write, threads, 1, 0, 0);
}

BandwidthProbe::~BandwidthProbe() {
  for (void* memory : memory_) munmap(memory, static_cast<size_t>(bytes_a_thread_));
}

Rate BandwidthProbe::measure(Traffic traffic, int threads, int streams, int64_t bytes, double seconds) {
  constexpr double kRepeatBytes = 8 << 20;  // a repeat is to last long against the clock and the barrier
  if (bytes == 0) bytes = bytes_a_thread_;
  const int64_t lines = std::min(bytes, bytes_a_thread_) / kLineBytes / avx2::kUnroll * avx2::kUnroll;
  const double moved = bytes_moved(traffic, streams, lines);
  const int passes = std::max(1, static_cast<int>(kRepeatBytes / moved));
  const bool wide = __builtin_cpu_supports("avx512f");
  std::atomic<long long> sink = 0;
  return rate_on_threads(threads, 1e-9 * moved * passes * threads, seconds, [&](int thread) {
    void* at = memory_[static_cast<size_t>(thread)];
    for (int pass = 0; pass < passes; ++pass)
      sink = wide ? avx512::run_traffic(traffic, streams, static_cast<avx512::Line*>(at), lines)
                  : avx2::run_traffic(traffic, streams, static_cast<avx2::Line*>(at), lines);
  });
}

double bandwidth_limit(BandwidthProbe& probe, Moves moves, int threads) {
  const auto best = [&](Traffic traffic, int streams) {
    return probe.measure(traffic, threads, streams, 0, 0.1).best;
  };
  switch (moves) {
    case Moves::read:
      return std::max(best(Traffic::read, 1), best(Traffic::read, 4));
    case Moves::elsewhere:
      return std::max(best(Traffic::copy, 1), best(Traffic::stream_copy, 1));
    case Moves::in_place:
      return best(Traffic::update, 1);
  }
  return 0;
}

void read_memory(const void* at, int64_t bytes) {
  const int64_t lines = bytes / kLineBytes / avx2::kUnroll * avx2::kUnroll;
  static std::atomic<long long> sink;
  sink.store(__builtin_cpu_supports("avx512f")
                 ? avx512::read_lines<1>(static_cast<const avx512::Line*>(at), lines, 0)
                 : avx2::read_lines<1>(static_cast<const avx2::Line*>(at), lines, 0),
             std::memory_order_relaxed);
}

}  // namespace moray
