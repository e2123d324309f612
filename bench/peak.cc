#include "peak.h"

#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <string_view>
#include <thread>
#include <vector>

namespace moray {

namespace {

constexpr int64_t kSteps = 1 << 17;
constexpr int kChains = 12;  // two FMA units with a latency of four or five cycles need ten

// Each returns a value that depends on every step, so that none is optimised away.
__attribute__((target("avx2,fma"))) float steps_avx2() {
  __m256 sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(0.001f);
  for (int64_t step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sums[i] = _mm256_fmadd_ps(sums[i], a, b);
  }
  for (int i = 1; i < kChains; ++i) sums[0] = _mm256_add_ps(sums[0], sums[i]);
  return _mm256_cvtss_f32(sums[0]);
}

__attribute__((target("avx512f"))) float steps_avx512() {
  __m512 sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(0.001f);
  for (int64_t step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sums[i] = _mm512_fmadd_ps(sums[i], a, b);
  }
  for (int i = 1; i < kChains; ++i) sums[0] = _mm512_add_ps(sums[0], sums[i]);
  return _mm512_cvtss_f32(sums[0]);
}

}  // namespace

double fma_peak_gflops(const char* simd, int threads) {
  const bool wide = std::string_view(simd) == "avx512";
  const double flops = 2.0 * kSteps * kChains * (wide ? 16 : 8) * threads;
  double best = 0;
  for (int repeat = 0; repeat < 60; ++repeat) {
    std::atomic<int> ready = 0;
    std::atomic<float> sink = 0;
    std::vector<std::chrono::steady_clock::time_point> begin(static_cast<size_t>(threads)), end = begin;
    std::vector<std::thread> workers;
    for (size_t t = 0; t < begin.size(); ++t)
      workers.emplace_back([&, t] {
        ++ready;
        while (ready < threads) std::this_thread::yield();
        begin[t] = std::chrono::steady_clock::now();
        sink = wide ? steps_avx512() : steps_avx2();
        end[t] = std::chrono::steady_clock::now();
      });
    for (std::thread& worker : workers) worker.join();
    const std::chrono::duration<double> seconds =
        *std::max_element(end.begin(), end.end()) - *std::min_element(begin.begin(), begin.end());
    best = std::max(best, flops / seconds.count() * 1e-9);
  }
  return best;
}

}  // namespace moray
