#include "base/random.h"

#include <bit>
#include <cmath>

#include "base/error.h"
#include "base/math.h"

namespace moray {

uint64_t Random::below(uint64_t bound) {
  MORAY_CHECK(bound > 0);
  const uint64_t limit = ~uint64_t{0} - ~uint64_t{0} % bound;
  uint64_t x = next();
  while (x >= limit) x = next();
  return x % bound;
}

double Random::normal() {
  for (;;) {
    const double u = 2 * uniform() - 1, v = 2 * uniform() - 1;
    const double s = u * u + v * v;
    if (s > 0 && s < 1) return u * std::sqrt(-2 * portable::log(s) / s);
  }
}

uint64_t permuted_index(uint64_t index, uint64_t size, uint64_t key) {
  MORAY_CHECK(index < size);
  const int half_bits = (std::bit_width(size - 1) + 1) / 2;
  const uint64_t mask = (uint64_t{1} << half_bits) - 1;
  do {
    uint64_t left = index >> half_bits, right = index & mask;
    for (uint64_t round = 0; round < 4; ++round) {
      const uint64_t mixed = left ^ (mix64(key + round, right) & mask);
      left = right;
      right = mixed;
    }
    index = left << half_bits | right;
  } while (index >= size);
  return index;
}

}  // namespace moray
