// How fast memory and caches give and take.
#pragma once

#include <cstdint>
#include <vector>

#include "bench/rate.h"

namespace moray {

enum class Traffic : uint8_t { read, write, stream_write, copy, stream_copy, update };

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

// What a program does with memory: only reads, writes elsewhere than it reads, writes where it reads.
enum class Moves : uint8_t { read, elsewhere, in_place };

// The best that a program which moves so can hope for, in GB/s: with plain or streaming stores, one or
// several streams.
double bandwidth_limit(BandwidthProbe& probe, Moves moves, int threads);

// Reads `bytes` as fast as a thread can, all but what is left of the last eight lines.
void read_memory(const void* at, int64_t bytes);

}  // namespace moray
