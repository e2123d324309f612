// Element types of tensors and their conversions.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/narrow_float.h"

namespace moray {

// f8_*, i8: codes, whose scales lie elsewhere (tensor/quantized.h, tensor/int_rows.h). u8: bytes, such as
// packed codes.
enum class DType : uint8_t { f32, f64, bf16, i32, f8_e4m3, f8_e5m2, u8, i8 };

constexpr size_t dtype_bytes(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return 4;
    case DType::f64:
      return 8;
    case DType::bf16:
      return 2;
    case DType::i32:
      return 4;
    case DType::f8_e4m3:
      return 1;
    case DType::f8_e5m2:
      return 1;
    case DType::u8:
      return 1;
    case DType::i8:
      return 1;
  }
  return 0;
}

// "f32", "bf16", ... as recipes and messages spell them.
std::string_view dtype_name(DType dtype);

// The upper half of an FP32 number: 1 sign, 8 exponent, 7 mantissa bits.
struct bf16 {
  uint16_t bits = 0;
};

constexpr float to_float(bf16 value) {
  return std::bit_cast<float>(uint32_t{value.bits} << 16);
}

// Rounds to nearest even; NaN stays NaN (quiet).
constexpr bf16 to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

template <class T>
struct dtype_of;
template <>
struct dtype_of<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct dtype_of<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct dtype_of<bf16> {
  static constexpr DType value = DType::bf16;
};
template <>
struct dtype_of<int32_t> {
  static constexpr DType value = DType::i32;
};
template <>
struct dtype_of<e4m3> {
  static constexpr DType value = DType::f8_e4m3;
};
template <>
struct dtype_of<e5m2> {
  static constexpr DType value = DType::f8_e5m2;
};
template <>
struct dtype_of<uint8_t> {
  static constexpr DType value = DType::u8;
};
template <>
struct dtype_of<int8_t> {
  static constexpr DType value = DType::i8;
};

}  // namespace moray
