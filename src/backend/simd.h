// The instruction set the CPU kernels run.
#pragma once

namespace moray {

const char* simd_name();  // "avx2" or "avx512"

}  // namespace moray
