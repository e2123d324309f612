// Vectors of the narrow formats (base/narrow_float.h): codes to f32 and back, with the bits of the scalar
// functions.

// Included once per Highway target, hence the toggled guard.
#if defined(MORAY_BACKEND_CPU_NARROW_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MORAY_BACKEND_CPU_NARROW_INL_H_
#undef MORAY_BACKEND_CPU_NARROW_INL_H_
#else
#define MORAY_BACKEND_CPU_NARROW_INL_H_
#endif

#include <cstring>

#include "backend/cpu/lanes-inl.h"
#include "tensor/quantized.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {

using IntTag = hn::RebindToSigned<FloatTag>;
using IntVec = hn::Vec<IntTag>;

HWY_INLINE IntVec splat_bits(uint32_t bits) {
  return hn::Set(IntTag(), static_cast<int32_t>(bits));
}

HWY_INLINE IntVec magnitude_bits(FloatVec x) {
  return hn::And(hn::BitCast(IntTag(), x), splat_bits(0x7fffffffu));
}

// narrow<Format> of every lane.
template <class Format>
HWY_INLINE IntVec encode(FloatVec x) {
  constexpr int kShift = 23 - Format::mantissa_bits;
  constexpr uint32_t kSteps = static_cast<uint32_t>(127 + 24 - Format::bias - Format::mantissa_bits) << 23;
  constexpr int kSignShift = 31 - Format::exponent_bits - Format::mantissa_bits;
  const IntTag di;
  const FloatTag df;
  const IntVec magnitude = magnitude_bits(x);
  const IntVec sign = hn::And(hn::ShiftRight<kSignShift>(hn::BitCast(di, x)), splat_bits(Format::sign_bit));
  const IntVec odd = hn::And(hn::ShiftRight<kShift>(magnitude), splat_bits(1));
  const IntVec rounded = hn::Add(hn::Add(magnitude, splat_bits((1u << (kShift - 1)) - 1)), odd);
  const IntVec normal =
      hn::Min(hn::Sub(hn::ShiftRight<kShift>(rounded),
                      splat_bits(static_cast<uint32_t>(127 - Format::bias) << Format::mantissa_bits)),
              splat_bits(Format::largest_code));
  const IntVec subnormal =
      hn::Sub(hn::BitCast(di, hn::Add(hn::BitCast(df, magnitude), hn::BitCast(df, splat_bits(kSteps)))),
              splat_bits(kSteps));
  const auto is_subnormal = hn::Lt(magnitude, splat_bits(static_cast<uint32_t>(128 - Format::bias) << 23));
  IntVec code = hn::IfThenElse(is_subnormal, subnormal, normal);
  const IntVec infinity = splat_bits(0x7f800000u);
  code = hn::IfThenElse(hn::Eq(magnitude, infinity), splat_bits(Format::infinity_code), code);
  code = hn::IfThenElse(hn::Gt(magnitude, infinity), splat_bits(Format::nan_code), code);
  return hn::Or(code, sign);
}

// to_float of every lane.
template <class Format>
HWY_INLINE FloatVec decode(IntVec code) {
  constexpr int kSignShift = 31 - Format::exponent_bits - Format::mantissa_bits;
  const FloatTag df;
  const IntVec sign = hn::ShiftLeft<kSignShift>(hn::And(code, splat_bits(Format::sign_bit)));
  const IntVec magnitude = hn::And(code, splat_bits(Format::sign_bit - 1));
  const FloatVec finite =
      hn::Mul(hn::BitCast(df, hn::ShiftLeft<23 - Format::mantissa_bits>(magnitude)),
              hn::BitCast(df, splat_bits(static_cast<uint32_t>(254 - Format::bias) << 23)));
  IntVec value = hn::BitCast(IntTag(), finite);
  value = hn::IfThenElse(hn::Gt(magnitude, splat_bits(Format::largest_code)), splat_bits(0x7fc00000u), value);
  if constexpr (Format::infinity_code != Format::nan_code)
    value =
        hn::IfThenElse(hn::Eq(magnitude, splat_bits(Format::infinity_code)), splat_bits(0x7f800000u), value);
  return hn::BitCast(df, hn::Or(value, sign));
}

HWY_INLINE size_t lane_count(WholeVector) {
  return static_cast<size_t>(kVectorLanes);
}
HWY_INLINE size_t lane_count(PartVector lanes) {
  return static_cast<size_t>(lanes.count);
}

// Vectors of smaller elements, as many as `lanes` has floats; nothing beyond is touched, lanes beyond load as
// 0.
template <class D>
HWY_INLINE hn::Vec<D> load_small(D d, const hn::TFromD<D>* p, WholeVector) {
  return hn::LoadU(d, p);
}
template <class D>
HWY_INLINE hn::Vec<D> load_small(D d, const hn::TFromD<D>* p, PartVector lanes) {
  alignas(64) hn::TFromD<D> buffer[kVectorLanes] = {};
  std::memcpy(buffer, p, lane_count(lanes) * sizeof(*p));
  return hn::Load(d, buffer);
}
template <class D>
HWY_INLINE void store_small(hn::Vec<D> v, D d, hn::TFromD<D>* p, WholeVector) {
  hn::StoreU(v, d, p);
}
template <class D>
HWY_INLINE void store_small(hn::Vec<D> v, D d, hn::TFromD<D>* p, PartVector lanes) {
  alignas(64) hn::TFromD<D> buffer[kVectorLanes];
  hn::Store(v, d, buffer);
  std::memcpy(p, buffer, lane_count(lanes) * sizeof(*p));
}

// The lanes that are there, zero beyond.
HWY_INLINE IntVec first_lanes(IntVec v, WholeVector) {
  return v;
}
HWY_INLINE IntVec first_lanes(IntVec v, PartVector lanes) {
  return hn::IfThenElseZero(hn::FirstN(IntTag(), lane_count(lanes)), v);
}

// Codes i, i + 1, ... of a row, i a multiple of the vector's lanes. Lanes beyond the end load as 0 and are
// not stored.
template <class Format, class Lanes>
HWY_INLINE IntVec load_codes(const std::byte* row, int64_t i, Lanes lanes) {
  if constexpr (sizeof(Format) == 1) {
    const hn::Rebind<uint8_t, IntTag> d8;
    return hn::PromoteTo(IntTag(), load_small(d8, reinterpret_cast<const uint8_t*>(row) + i, lanes));
  } else {
    // A pair of codes is three bytes, read as four.
    alignas(64) uint8_t bytes[kVectorLanes / 2 * 3 + 1] = {};
    std::memcpy(bytes, row + i / 2 * 3, (3 * lane_count(lanes) + 1) / 2);
    alignas(64) int32_t codes[kVectorLanes];
    for (int64_t pair = 0; pair < kVectorLanes / 2; ++pair) {
      uint32_t both;
      std::memcpy(&both, bytes + 3 * pair, sizeof(both));
      codes[2 * pair] = static_cast<int32_t>(both & 0xfff);
      codes[2 * pair + 1] = static_cast<int32_t>(both >> 12 & 0xfff);
    }
    return first_lanes(hn::Load(IntTag(), codes), lanes);
  }
}

template <class Format, class Lanes>
HWY_INLINE void store_codes(IntVec code, std::byte* row, int64_t i, Lanes lanes) {
  if constexpr (sizeof(Format) == 1) {
    const hn::Rebind<uint8_t, IntTag> d8;
    store_small(hn::DemoteTo(d8, code), d8, reinterpret_cast<uint8_t*>(row) + i, lanes);
  } else {
    alignas(64) int32_t codes[kVectorLanes];
    hn::Store(first_lanes(code, lanes), IntTag(), codes);
    alignas(64) uint8_t bytes[kVectorLanes / 2 * 3 + 1];
    for (int64_t pair = 0; pair < kVectorLanes / 2; ++pair) {
      const auto both = static_cast<uint32_t>(codes[2 * pair] | codes[2 * pair + 1] << 12);
      std::memcpy(bytes + 3 * pair, &both, sizeof(both));
    }
    std::memcpy(row + i / 2 * 3, bytes, (3 * lane_count(lanes) + 1) / 2);
  }
}

}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
