// What every kernel file defines before it includes Highway: code is generated for AVX2 and AVX-512
// (HWY_AVX3), and for the SSE4 baseline only because Highway insists on it; register_kernels() refuses
// machines that would run that.
#pragma once

#undef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS HWY_AVX3_DL
