// The floating-point formats of FP8 training: E4M3, E5M2, E5M6, and UE8M0 for scales.
//
//   e4m3   1 sign, 4 exponent, 3 mantissa bits, bias 7 ("E4M3FN"): largest 448, normal from 2⁻⁶, subnormal
//   from
//          2⁻⁹, no infinity, NaN 0x7f and 0xff
//   e5m2   1, 5, 2 bits, bias 15: largest 57344, normal from 2⁻¹⁴, subnormal from 2⁻¹⁶; infinity and NaN as
//   IEEE e5m6   1, 5, 6 bits, bias 15: largest 65024, normal from 2⁻¹⁴, subnormal from 2⁻²⁰; infinity and NaN
//   as IEEE ue8m0  8 exponent bits, bias 127: 2⁻¹²⁷ to 2¹²⁷, no zero, NaN 0xff
//
// E4M3 and UE8M0 follow the OCP formats. The V3 report names no more of E5M6 than its field widths: here it
// is IEEE's binary16 with four mantissa bits fewer, infinities and NaNs included.
//
// Encoding rounds to nearest even and saturates: a finite number beyond the largest becomes the largest. What
// is not finite stays so: NaN becomes NaN, infinity becomes infinity, or NaN where the format has none.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

namespace moray {

template <class Bits, int kExponent, int kMantissa, bool kInfinity>
struct NarrowFloat {
  static constexpr int exponent_bits = kExponent, mantissa_bits = kMantissa;
  static constexpr int bias = (1 << (kExponent - 1)) - 1;
  static constexpr uint32_t sign_bit = 1u << (kExponent + kMantissa);
  static constexpr uint32_t codes = 2 * sign_bit;
  // Codes of magnitudes: the largest finite one, what infinity becomes, and the NaN that encoding yields.
  static constexpr uint32_t infinity_code = kInfinity ? sign_bit - (1u << kMantissa) : sign_bit - 1;
  static constexpr uint32_t largest_code = infinity_code - 1;
  static constexpr uint32_t nan_code = kInfinity ? infinity_code | (1u << (kMantissa - 1)) : sign_bit - 1;

  Bits bits = 0;
};

using e4m3 = NarrowFloat<uint8_t, 4, 3, false>;
using e5m2 = NarrowFloat<uint8_t, 5, 2, true>;
using e5m6 = NarrowFloat<uint16_t, 5, 6, true>;

// Exact, for every code.
template <class Bits, int kExponent, int kMantissa, bool kInfinity>
constexpr float to_float(NarrowFloat<Bits, kExponent, kMantissa, kInfinity> value) {
  using Format = NarrowFloat<Bits, kExponent, kMantissa, kInfinity>;
  const uint32_t sign = (value.bits & Format::sign_bit) << (31 - kExponent - kMantissa);
  const uint32_t magnitude = value.bits & (Format::sign_bit - 1);
  if (magnitude > Format::largest_code) {
    const bool infinite = kInfinity && magnitude == Format::infinity_code;
    return std::bit_cast<float>(sign | (infinite ? 0x7f800000u : 0x7fc00000u));
  }
  // As the bits of an FP32 number the magnitude lacks only the difference of the biases; the product is
  // exact, also of subnormal numbers.
  constexpr float kRebias =
      std::bit_cast<float>(static_cast<uint32_t>(254 - Format::bias) << 23);  // 2^(127 − bias)
  const float unsigned_value = std::bit_cast<float>(magnitude << (23 - kMantissa)) * kRebias;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(unsigned_value) | sign);
}

template <class Format>
constexpr Format narrow(float value) {
  constexpr int kShift = 23 - Format::mantissa_bits;
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 31) * Format::sign_bit;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t code = 0;
  if (magnitude > 0x7f800000u) {
    code = Format::nan_code;
  } else if (magnitude == 0x7f800000u) {
    code = Format::infinity_code;
  } else if (magnitude >= static_cast<uint32_t>(128 - Format::bias) << 23) {
    const uint32_t rounded = magnitude + (1u << (kShift - 1)) - 1 + (magnitude >> kShift & 1u);
    code = (rounded >> kShift) - (static_cast<uint32_t>(127 - Format::bias) << Format::mantissa_bits);
    code = std::min(code, Format::largest_code);
  } else {
    // Subnormal: next to 2²³ subnormal steps, FP32's own last bit is one step, so that its addition rounds
    // for us.
    constexpr uint32_t kSteps = static_cast<uint32_t>(127 + 24 - Format::bias - Format::mantissa_bits) << 23;
    code = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + std::bit_cast<float>(kSteps)) - kSteps;
  }
  return {static_cast<decltype(Format::bits)>(sign | code)};
}

// 2^(bits − 127): a scale.
struct ue8m0 {
  static constexpr uint32_t largest_code = 254, nan_code = 255;
  uint8_t bits = 0;
};

constexpr float to_float(ue8m0 value) {
  if (value.bits == ue8m0::nan_code) return std::bit_cast<float>(0x7fc00000u);
  return std::bit_cast<float>(value.bits == 0 ? 0x00400000u
                                              : uint32_t{value.bits} << 23);  // 2⁻¹²⁷ is subnormal in FP32
}

// The nearest power of two, ties to the even code; at most the largest, at least the smallest, so that zero
// becomes 2⁻¹²⁷. NaN, infinity and negative numbers become NaN.
constexpr ue8m0 to_ue8m0(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (bits >= 0x7f800000u && bits != 0x80000000u) return {ue8m0::nan_code};
  if (bits == 0x80000000u || bits <= 0x00600000u) return {0};  // up to 1.5·2⁻¹²⁷
  const uint32_t exponent = bits >> 23, half = 0x00400000u;
  const uint32_t fraction =
      exponent == 0 ? half + 1 : bits & 0x007fffffu;  // subnormal and above the tie: up, to 2⁻¹²⁶
  const bool up = fraction > half || (fraction == half && exponent % 2 == 1);
  return {static_cast<uint8_t>(std::min(exponent + (up ? 1u : 0u), ue8m0::largest_code))};
}

// The smallest power of two that is not below a positive normal number up to 2¹²⁷.
constexpr float power_of_two_up(float value) {
  return std::bit_cast<float>((std::bit_cast<uint32_t>(value) + 0x007fffffu) & 0x7f800000u);
}

}  // namespace moray
