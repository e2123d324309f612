// Conversion of stored elements: among F32, BF16 and F64, from F8_E4M3 and F8_E5M2 to these, and plain
// copies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/dtype.h"

namespace moray {

// Rounds once, to nearest even, also where a detour through FP32 would round twice.
bf16 to_bf16(double value);

// Writes `count` elements of safetensors dtype `from_dtype` at `from` (any alignment) as `into_dtype` at
// `into` (aligned). FP8 codes widen to the numbers they stand for, without any scale. False, with nothing
// written, when there is no such conversion. Widening is exact, narrowing rounds to nearest even.
bool convert_elements(std::string_view from_dtype, const std::byte* from, int64_t count, DType into_dtype,
                      std::byte* into);

// The first of `count` stored elements that is NaN or, as f32, infinite; -1 where all are finite or the dtype
// does not convert.
int64_t first_not_finite(std::string_view dtype, const std::byte* from, int64_t count);

}  // namespace moray
