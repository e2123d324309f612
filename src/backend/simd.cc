#include "backend/simd.h"

#include "backend/cpu/register.h"

namespace moray {

const char* simd_name() {
  return cpu::simd_name();
}

}  // namespace moray
