#include "backend/cpu/caches.h"

#include <fmt/format.h>

#include <fstream>
#include <string>

#include "backend/cpu/element_type.h"

namespace moray::cpu {

// /sys names what this machine sees, in KiB ("1024K"); sysconf, inside a virtual machine, may name all of the
// processor's L3.
const CacheSizes& machine_caches() {
  static const CacheSizes caches = [] {
    CacheSizes found;
    for (int index = 0; index < 8; ++index) {
      const std::string folder = fmt::format("/sys/devices/system/cpu/cpu0/cache/index{}/", index);
      int level = 0;
      int64_t kib = 0;
      std::string type;
      std::ifstream(folder + "level") >> level;
      std::ifstream(folder + "type") >> type;
      std::ifstream(folder + "size") >> kib;
      if (type == "Instruction" || kib <= 0) continue;
      if (level == 1) found.l1_bytes = kib << 10;
      if (level == 2) found.l2_bytes = kib << 10;
      if (level == 3) found.l3_bytes = kib << 10;
    }
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
