// What this machine can do, measured in the same run as what is held against it.
#pragma once

namespace moray {

// Single-precision multiply-adds from registers alone, on `threads` threads at once: the best of several
// short runs, in GFLOP/s (an FMA counts two). `simd` is "avx2" or "avx512" (backend/cpu/register.h).
double fma_peak_gflops(const char* simd, int threads);

}  // namespace moray
