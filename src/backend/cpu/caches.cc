#include "backend/cpu/caches.h"

#include <unistd.h>

#include "backend/cpu/element_type.h"

namespace moray::cpu {

const CacheSizes& machine_caches() {
  static const CacheSizes caches = [] {
    CacheSizes found;
    if (const long l1 = ::sysconf(_SC_LEVEL1_DCACHE_SIZE); l1 > 0) found.l1_bytes = l1;
    if (const long l2 = ::sysconf(_SC_LEVEL2_CACHE_SIZE); l2 > 0) found.l2_bytes = l2;
    if (const long l3 = ::sysconf(_SC_LEVEL3_CACHE_SIZE); l3 > 0) found.l3_bytes = l3;
    return found;
  }();
  return caches;
}

bool beyond_caches(const Tensor& tensor) {
  constexpr int64_t kLine = 64;
  const auto row_bytes = tensor.extent(-1) * static_cast<int64_t>(dtype_bytes(tensor.dtype()));
  return static_cast<int64_t>(tensor.bytes()) > machine_caches().l3_bytes && row_bytes % kLine == 0 &&
         reinterpret_cast<uintptr_t>(tensor.raw()) % kLine == 0;
}

}  // namespace moray::cpu
