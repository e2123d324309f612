// Top-k selection of experts: comparisons only, so that the choice is the same on every instruction set.
#pragma once

#include <cstdint>

#include "ops/route.h"

namespace moray::cpu {

// chosen(e) for each of the top `count` of `values`, best first; among equals the lower id wins. NaN never
// beats a number, and the ids are valid and distinct whatever the values are.
template <class Chosen>
void for_top(const float* values, int64_t size, int64_t count, const Chosen& chosen) {
  // The last choice orders the rest: the next is the best among those behind it.
  int64_t last = -1;
  const auto better = [&](int64_t a, int64_t b) {  // a comes before b
    const bool a_number = values[a] == values[a], b_number = values[b] == values[b];
    if (a_number != b_number) return a_number;
    if (a_number && values[a] != values[b]) return values[a] > values[b];
    return a < b;
  };
  for (int64_t k = 0; k < count; ++k) {
    int64_t best = -1;
    for (int64_t i = 0; i < size; ++i)
      if ((last < 0 || better(last, i)) && (best < 0 || better(i, best))) best = i;
    chosen(best);
    last = best;
  }
}

// The experts of one token, ascending. bias may be null.
void select_experts(const float* scores, const float* bias, int64_t experts, const RouterConfig& config,
                    int32_t* ids);

}  // namespace moray::cpu
