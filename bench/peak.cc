#include "bench/peak.h"

#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <string_view>
#include <thread>

namespace moray {

namespace {

constexpr int64_t kSteps = 1 << 17;
constexpr int kChains = 12;  // two units with a latency of four or five cycles need ten
// Of the three instructions of maddubs, two share two units: a step a cycle over their latencies. More would
// not fit the 16 registers of AVX2.
constexpr int kMaddubsChains = 10;

// Each returns a value that depends on every step, so that none is optimised away.
__attribute__((target("avx2,fma"))) float fma_avx2() {
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

__attribute__((target("avx512f"))) float fma_avx512() {
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

// The bytes multiplied are the chain's own sum, else the product would be the same at every step.
__attribute__((target("avx2"))) float maddubs_avx2() {
  __m256i sums[kMaddubsChains];
  for (int i = 0; i < kMaddubsChains; ++i) sums[i] = _mm256_set1_epi32(i);
  const __m256i b = _mm256_set1_epi8(3), ones = _mm256_set1_epi16(1);
  for (int64_t step = 0; step < kSteps; ++step) {
#pragma GCC unroll 10
    for (int i = 0; i < kMaddubsChains; ++i)
      sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(_mm256_maddubs_epi16(sums[i], b), ones));
  }
  for (int i = 1; i < kMaddubsChains; ++i) sums[0] = _mm256_add_epi32(sums[0], sums[i]);
  return static_cast<float>(_mm256_extract_epi32(sums[0], 0));
}

__attribute__((target("avx512f,avx512bw"))) float maddubs_avx512() {
  __m512i sums[kMaddubsChains];
  for (int i = 0; i < kMaddubsChains; ++i) sums[i] = _mm512_set1_epi32(i);
  const __m512i b = _mm512_set1_epi8(3), ones = _mm512_set1_epi16(1);
  for (int64_t step = 0; step < kSteps; ++step) {
#pragma GCC unroll 10
    for (int i = 0; i < kMaddubsChains; ++i)
      sums[i] = _mm512_add_epi32(sums[i], _mm512_madd_epi16(_mm512_maddubs_epi16(sums[i], b), ones));
  }
  for (int i = 1; i < kMaddubsChains; ++i) sums[0] = _mm512_add_epi32(sums[0], sums[i]);
  return static_cast<float>(_mm512_cvtsi512_si32(sums[0]));
}

__attribute__((target("avx2,avxvnni"))) float vnni_avx2() {
  __m256i sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = _mm256_set1_epi32(i);
  const __m256i a = _mm256_set1_epi8(5), b = _mm256_set1_epi8(3);
  for (int64_t step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sums[i] = _mm256_dpbusd_avx_epi32(sums[i], a, b);
  }
  for (int i = 1; i < kChains; ++i) sums[0] = _mm256_add_epi32(sums[0], sums[i]);
  return static_cast<float>(_mm256_extract_epi32(sums[0], 0));
}

__attribute__((target("avx512f,avx512vnni"))) float vnni_avx512() {
  __m512i sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = _mm512_set1_epi32(i);
  const __m512i a = _mm512_set1_epi8(5), b = _mm512_set1_epi8(3);
  for (int64_t step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sums[i] = _mm512_dpbusd_epi32(sums[i], a, b);
  }
  for (int i = 1; i < kChains; ++i) sums[0] = _mm512_add_epi32(sums[0], sums[i]);
  return static_cast<float>(_mm512_cvtsi512_si32(sums[0]));
}

// `operations`: in one step of all chains.
Rate peak(float (*steps)(), double operations, int threads, double seconds) {
  std::atomic<float> sink = 0;
  return rate_on_threads(threads, 1e-9 * operations * kSteps * threads, seconds,
                         [&](int) { sink = steps(); });
}

}  // namespace

Rate fma_peak(const char* simd, int threads, double seconds) {
  if (std::string_view(simd) == "avx512") return peak(fma_avx512, kChains * 2 * 16, threads, seconds);
  return peak(fma_avx2, kChains * 2 * 8, threads, seconds);
}

double fma_peak_gflops(const char* simd, int threads) {
  // A virtual machine's cores may share one of the host's for a while: exactly half, now and then.
  constexpr int kTries = 3;
  double best = 0;
  for (int i = 0; i < kTries; ++i) {
    if (i > 0) std::this_thread::sleep_for(std::chrono::milliseconds(100));
    best = std::max(best, fma_peak(simd, threads).best);
  }
  return best;
}

const char* int8_path_name(Int8Path path) {
  switch (path) {
    case Int8Path::maddubs_avx2:
      return "maddubs avx2";
    case Int8Path::maddubs_avx512:
      return "maddubs avx512";
    case Int8Path::vnni_avx2:
      return "vnni avx2";
    case Int8Path::vnni_avx512:
      return "vnni avx512";
  }
  return "";
}

std::vector<Int8Path> int8_paths() {
  std::vector<Int8Path> paths;
  if (__builtin_cpu_supports("avx2")) paths.push_back(Int8Path::maddubs_avx2);
  if (__builtin_cpu_supports("avx512bw")) paths.push_back(Int8Path::maddubs_avx512);
  if (__builtin_cpu_supports("avxvnni")) paths.push_back(Int8Path::vnni_avx2);
  if (__builtin_cpu_supports("avx512vnni")) paths.push_back(Int8Path::vnni_avx512);
  return paths;
}

Rate int8_peak(Int8Path path, int threads, double seconds) {
  switch (path) {
    case Int8Path::maddubs_avx2:
      return peak(maddubs_avx2, kMaddubsChains * 2 * 32, threads, seconds);
    case Int8Path::maddubs_avx512:
      return peak(maddubs_avx512, kMaddubsChains * 2 * 64, threads, seconds);
    case Int8Path::vnni_avx2:
      return peak(vnni_avx2, kChains * 2 * 32, threads, seconds);
    case Int8Path::vnni_avx512:
      return peak(vnni_avx512, kChains * 2 * 64, threads, seconds);
  }
  return {};
}

}  // namespace moray
