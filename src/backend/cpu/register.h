#pragma once

namespace moray::cpu {

// Fills every slot of Device::cpu. Throws Error on a processor without AVX2 and FMA, in one line.
// MORAY_SIMD=avx2 or avx512 restricts the kernels to that instruction set (Error if the machine lacks it).
void register_kernels();

// "avx2" or "avx512": what the kernels will run.
const char* simd_name();

// Restricts the kernels to "avx2" or "avx512"; false when the machine lacks it. For tests that compare the
// two.
bool force_simd(const char* name);

}  // namespace moray::cpu
