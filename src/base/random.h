// Random numbers as functions of (seed, stream, index), so that no result depends on who drew before.
#pragma once

#include <cstdint>
#include <string_view>

namespace moray {

// A 64-bit finaliser (splitmix64): every output bit depends on every input bit.
constexpr uint64_t mix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

constexpr uint64_t mix64(uint64_t a, uint64_t b) {
  return mix64(mix64(a) ^ b);
}

// A stable number for a name (FNV-1a), to give each tensor or purpose a stream of its own.
constexpr uint64_t name_stream(std::string_view name) {
  uint64_t h = 0xcbf29ce484222325ull;
  for (char c : name) h = (h ^ static_cast<uint8_t>(c)) * 0x100000001b3ull;
  return h;
}

// A counter-based generator: draw i of (seed, stream) is mix64(key, i). The whole state is (key, counter).
class Random {
 public:
  Random(uint64_t seed, uint64_t stream) : key_(mix64(seed, stream)) {}

  uint64_t next() { return mix64(key_, counter_++); }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }  // [0, 1)
  uint64_t below(uint64_t bound);                                           // [0, bound), unbiased; bound > 0
  double normal();  // mean 0, variance 1 (Marsaglia's polar method)

 private:
  uint64_t key_;
  uint64_t counter_ = 0;
};

// Where index goes under a pseudo-random permutation of [0, size) chosen by key: O(1), no table (a Feistel
// network, walked until it lands inside).
uint64_t permuted_index(uint64_t index, uint64_t size, uint64_t key);

}  // namespace moray
