// Products with weights of 8 and 4 bits (tensor/int_rows.h).
#pragma once

#include <algorithm>
#include <span>

#include "ops/weight_matmul.h"

namespace moray::cpu {

// What the scale multiplies, of `count` columns of a row from `column`, a multiple of 32, on.
template <class To>
void weight_integers(const StoredWeight& w, int64_t row, int64_t column, int64_t count, To* to) {
  const int64_t stride = w.values_OI.extent(1);
  if (w.values_OI.dtype() == DType::i8) {
    const int8_t* codes = w.values_OI.data<int8_t>() + row * stride + column;
    std::transform(codes, codes + count, to, [](int8_t code) { return static_cast<To>(code); });
    return;
  }
  const uint8_t* packed = w.values_OI.data<uint8_t>() + row * stride;
  constexpr int64_t kHalf = kInt4Group / 2;
  for (int64_t begin = 0; begin < count; begin += kInt4Group) {
    const Int4Group group = int4_group(packed, w.inputs(), (column + begin) / kInt4Group);
    for (int64_t j = 0; j < kHalf; ++j) {
      to[begin + j] = static_cast<To>(group.sub_scale * (2 * (group.codes[j] & 15) - group.zero));
      to[begin + kHalf + j] = static_cast<To>(group.sub_scale * (2 * (group.codes[j] >> 4) - group.zero));
    }
  }
}

inline float weight_scale(const StoredWeight& w, int64_t row, int64_t column) {
  return w.scales.data<float>()[row * w.scales.extent(1) + column / kIntBlock];
}

// The products among these whose weights are integers.
void run_integer_products(Exec&, std::span<const WeightProduct>);

}  // namespace moray::cpu
