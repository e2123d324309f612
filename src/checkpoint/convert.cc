#include "checkpoint/convert.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "checkpoint/safetensors.h"

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

template <class Into, class Narrow>
Into converted(Narrow value) {
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
    case DType::f8_e4m3:  // a code means nothing without its scale: ops/quantize.h
    case DType::f8_e5m2:
    case DType::u8:
    case DType::i8:
      return false;
  }
  return false;
}

bool copy_plain(std::string_view from_dtype, const std::byte* from, int64_t count, DType into_dtype,
                std::byte* into) {
  const bool same = (from_dtype == "I32" && into_dtype == DType::i32) ||
                    (from_dtype == "U8" && into_dtype == DType::u8) ||
                    (from_dtype == "I8" && into_dtype == DType::i8);
  if (same && count > 0) std::memcpy(into, from, static_cast<size_t>(count) * dtype_bytes(into_dtype));
  return same;
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
  if (from_dtype == "F8_E4M3") return convert_from<e4m3>(from, count, into_dtype, into);
  if (from_dtype == "F8_E5M2") return convert_from<e5m2>(from, count, into_dtype, into);
  return copy_plain(from_dtype, from, count, into_dtype, into);
}

int64_t first_not_finite(std::string_view dtype, const std::byte* from, int64_t count) {
  constexpr int64_t kPiece = 4096;  // widened it stays in L1
  alignas(64) float values[kPiece];
  const auto is_finite = [](float x) { return (std::bit_cast<uint32_t>(x) & 0x7f800000u) != 0x7f800000u; };
  const auto bytes = static_cast<int64_t>(stored_dtype_bytes(dtype));
  for (int64_t begin = 0; begin < count; begin += kPiece) {
    const int64_t many = std::min(kPiece, count - begin);
    if (!convert_elements(dtype, from + begin * bytes, many, DType::f32,
                          reinterpret_cast<std::byte*>(values)))
      return -1;
    bool finite = true;
    for (int64_t i = 0; i < many; ++i) finite &= is_finite(values[i]);
    if (!finite) return begin + (std::find_if_not(values, values + many, is_finite) - values);
  }
  return -1;
}

}  // namespace moray
