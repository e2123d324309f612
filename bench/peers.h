// The products of other libraries, where this machine has them: OpenBLAS and oneDNN (bench/README.md).
#pragma once

#include "bench/sheet.h"

namespace moray {

// c[m, n] = a[m, k] · b[k, n], all f32 and dense; an operand marked transposed lies as its transpose.
struct PeerProduct {
  int64_t m = 0, n = 0, k = 0;
  const float* a = nullptr;
  bool a_transposed = false;
  const float* b = nullptr;
  bool b_transposed = false;
  float* c = nullptr;
  bool b_is_weight = false;  // then oneDNN packs it once, and that is not timed
};

// One contestant a library, on `threads` threads; empty when none was found at configuration.
std::vector<Contestant> peer_products(const PeerProduct& product, int threads);

}  // namespace moray
