// What this machine can compute from registers alone, measured in the same run as what is held against it.
#pragma once

#include <string>
#include <vector>

#include "bench/rate.h"

namespace moray {

constexpr double kPeakSeconds = 0.1;

// Single-precision multiply-adds on `threads` threads at once, in GFLOP/s (an FMA counts two). `simd` is
// "avx2" or "avx512" (backend/cpu/register.h).
Rate fma_peak(const char* simd, int threads, double seconds = kPeakSeconds);

// The best of it.
double fma_peak_gflops(const char* simd, int threads);

// The ways this processor has to multiply bytes and add into 32-bit sums.
enum class Int8Path : unsigned char { maddubs_avx2, maddubs_avx512, vnni_avx2, vnni_avx512 };
const char* int8_path_name(Int8Path path);  // "maddubs avx2"
std::vector<Int8Path> int8_paths();         // those this processor can run
// In GOP/s: a multiplication and its addition count two. Unsigned times signed, sums exact as long as pairs
// of products fit 16 bits (maddubs) or always (VNNI).
Rate int8_peak(Int8Path path, int threads, double seconds = kPeakSeconds);

}  // namespace moray
