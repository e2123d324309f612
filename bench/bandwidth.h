// How fast memory and caches give and take.
#pragma once

#include <cstdint>
#include <vector>

#include "bench/rate.h"

namespace moray {

enum class Traffic : uint8_t { read, write, stream_write, copy, stream_copy, update };

// Cache sizes of one core (L3: of the machine) in bytes; 0 where the system does not say.
struct CacheLevels {
  int64_t l1 = 0, l2 = 0, l3 = 0;
};
CacheLevels cache_levels();

// Memory of its own for every thread, touched by that thread, on huge pages where the system gives them.
class BandwidthProbe {
 public:
  // bytes_a_thread 0: enough that no cache helps.
  explicit BandwidthProbe(int threads, int64_t bytes_a_thread = 0);
  ~BandwidthProbe();
  BandwidthProbe(const BandwidthProbe&) = delete;
  BandwidthProbe& operator=(const BandwidthProbe&) = delete;

  // GB/s of all threads together, each over `bytes` (0: all it has). Counted is what the program reads and
  // writes: a line that the processor reads before it is written counts once. `streams` (1, 2, 4 or 8) is how
  // many places of it a thread reads side by side.
  Rate measure(Traffic traffic, int threads, int streams = 1, int64_t bytes = 0, double seconds = 0.15);

 private:
  int64_t bytes_a_thread_;
  std::vector<void*> memory_;
};

// What an op that reads some tensors and writes others can hope for, in GB/s: the better of plain and
// streaming stores.
struct BandwidthLimits {
  double read = 0;    // only reads
  double copy = 0;    // writes elsewhere
  double update = 0;  // writes where it reads
};
BandwidthLimits bandwidth_limits(int threads);

}  // namespace moray
