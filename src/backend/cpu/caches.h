// The sizes of the processor's caches, which blocking and streaming go by.
#pragma once

#include <cstdint>

namespace moray::cpu {

struct CacheSizes {
  int64_t l1_bytes = 32 << 10;
  int64_t l2_bytes = 512 << 10;  // of one core
  int64_t l3_bytes = 32 << 20;   // of all
};

// Of this machine; the defaults above where the system does not say.
const CacheSizes& machine_caches();

}  // namespace moray::cpu
