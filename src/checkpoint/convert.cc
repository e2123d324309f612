#include "checkpoint/convert.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>

namespace moray {

namespace {

template <class Into>
Into converted(double value) {
  if constexpr (std::is_same_v<Into, bf16>) {
    return to_bf16(value);
  } else {
    return static_cast<Into>(value);
  }
}

template <class Into>
Into converted(float value) {
  if constexpr (std::is_same_v<Into, bf16>) {
    return to_bf16(value);
  } else {
    return static_cast<Into>(value);
  }
}

template <class Into>
Into converted(bf16 value) {
  return converted<Into>(to_float(value));
}

template <class From, class Into>
void convert(const std::byte* from, int64_t count, std::byte* into) {
  for (int64_t i = 0; i < count; ++i) {
    From element;
    std::memcpy(&element, from + static_cast<size_t>(i) * sizeof(From), sizeof(From));
    const Into result = converted<Into>(element);
    std::memcpy(into + static_cast<size_t>(i) * sizeof(Into), &result, sizeof(Into));
  }
}

template <class From>
bool convert_from(const std::byte* from, int64_t count, DType into_dtype, std::byte* into) {
  if (dtype_of<From>::value == into_dtype) {
    if (count > 0) std::memcpy(into, from, static_cast<size_t>(count) * sizeof(From));
    return true;
  }
  switch (into_dtype) {
    case DType::f32:
      convert<From, float>(from, count, into);
      return true;
    case DType::f64:
      convert<From, double>(from, count, into);
      return true;
    case DType::bf16:
      convert<From, bf16>(from, count, into);
      return true;
    case DType::i32:
      return false;
  }
  return false;
}

}  // namespace

bf16 to_bf16(double value) {
  // Round to odd in FP32 first: truncate, and set the last bit if anything was lost. FP32 keeps more than two
  // bits below BF16's last, so the second rounding then sees which side of a tie the value is on.
  float narrow = static_cast<float>(value);
  if (std::isfinite(value) && static_cast<double>(narrow) != value) {
    uint32_t bits = std::bit_cast<uint32_t>(narrow);
    if (std::abs(static_cast<double>(narrow)) > std::abs(value)) --bits;
    narrow = std::bit_cast<float>(bits | 1u);
  }
  return to_bf16(narrow);
}

bool convert_elements(std::string_view from_dtype, const std::byte* from, int64_t count, DType into_dtype,
                      std::byte* into) {
  if (from_dtype == "F32") return convert_from<float>(from, count, into_dtype, into);
  if (from_dtype == "F64") return convert_from<double>(from, count, into_dtype, into);
  if (from_dtype == "BF16") return convert_from<bf16>(from, count, into_dtype, into);
  if (from_dtype == "I32" && into_dtype == DType::i32) {
    if (count > 0) std::memcpy(into, from, static_cast<size_t>(count) * sizeof(int32_t));
    return true;
  }
  return false;
}

}  // namespace moray
