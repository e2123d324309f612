// Walking rows of f32 or bf16 by vectors of f32 with the same arithmetic for every vector width, and sums in
// 16 virtual lanes. What is stored as bf16 is rounded to nearest even, once.

// Included once per Highway target, hence the toggled guard.
#if defined(MORAY_BACKEND_CPU_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MORAY_BACKEND_CPU_LANES_INL_H_
#undef MORAY_BACKEND_CPU_LANES_INL_H_
#else
#define MORAY_BACKEND_CPU_LANES_INL_H_
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "backend/cpu/element_type.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using FloatTag = hn::ScalableTag<float>;
using FloatVec = hn::Vec<FloatTag>;
constexpr int64_t kVectorLanes = HWY_MAX_BYTES / sizeof(float);
constexpr int64_t kVirtualLanes = 16;
constexpr int kVectorsPerGroup = kVirtualLanes / kVectorLanes;

HWY_INLINE FloatVec splat(float value) {
  return hn::Set(FloatTag(), value);
}

using UintTag = hn::RebindToUnsigned<FloatTag>;
using HalfTag = hn::Rebind<uint16_t, FloatTag>;
using HalfVec = hn::Vec<HalfTag>;

HWY_INLINE FloatVec widened(HalfVec upper) {
  return hn::BitCast(FloatTag(), hn::ShiftLeft<16>(hn::PromoteTo(UintTag(), upper)));
}

// The bits of a bf16, to nearest even, in the lower half of each lane; NaN stays NaN (Highway's own
// conversion truncates).
template <class DF>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<DF>> narrowed_bits(DF, hn::Vec<DF> v) {
  const hn::RebindToUnsigned<DF> d;
  const auto bits = hn::BitCast(d, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d, 1u));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(d, 0x7fffu))));
  const auto quiet = hn::Or(hn::ShiftRight<16>(bits), hn::Set(d, 0x40u));
  return hn::IfThenElse(hn::RebindMask(d, hn::IsNaN(v)), quiet, rounded);
}

HWY_INLINE HalfVec narrowed(FloatVec v) {
#if HWY_TARGET == HWY_AVX3
  // The same in 6 instructions instead of 10, for every bf16 that is stored: an odd upper half is a mask, one
  // instruction puts NaNs back, and one takes the upper halves together.
  const __m512i bits = hn::BitCast(UintTag(), v).raw;
  const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
  const __m512i half = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
  const __m512i rounded = _mm512_mask_add_epi32(half, odd, half, _mm512_set1_epi32(1));
  constexpr int kNaNsQuietAsTheyWere =
      0x22;  // for NaN, quiet or not, the source made quiet; else the rounded
  const __m512 kept =
      _mm512_fixupimm_ps(_mm512_castsi512_ps(rounded), v.raw, _mm512_set1_epi32(kNaNsQuietAsTheyWere), 0);
  alignas(64) static constexpr uint16_t kUpperHalves[32] = {1,  3,  5,  7,  9,  11, 13, 15,
                                                            17, 19, 21, 23, 25, 27, 29, 31};
  const __m512i upper = _mm512_permutexvar_epi16(_mm512_load_si512(kUpperHalves), _mm512_castps_si512(kept));
  return HalfVec{_mm512_castsi512_si256(upper)};
#else
  return hn::TruncateTo(HalfTag(), narrowed_bits(FloatTag(), v));
#endif
}

// Every lane as storing it as T and loading it again would leave it.
template <class T>
HWY_INLINE FloatVec rounded_to(FloatVec v) {
  if constexpr (std::is_same_v<T, bf16>)
    return widened(narrowed(v));
  else
    return v;
}

// All lanes of a vector.
struct WholeVector {
  HWY_INLINE FloatVec load(const float* p) const { return hn::LoadU(FloatTag(), p); }
  HWY_INLINE FloatVec load(const bf16* p) const {
    return widened(hn::LoadU(HalfTag(), reinterpret_cast<const uint16_t*>(p)));
  }
  HWY_INLINE void store(FloatVec v, float* p) const { hn::StoreU(v, FloatTag(), p); }
  HWY_INLINE void store(FloatVec v, bf16* p) const {
    hn::StoreU(narrowed(v), HalfTag(), reinterpret_cast<uint16_t*>(p));
  }
  HWY_INLINE FloatVec keep(FloatVec v, FloatVec) const { return v; }
};

// All lanes, stored past the caches: where an output is larger than they are, a line written so is not read
// before. For memory aligned to a line; whoever uses it ends with hwy::FlushStream().
struct StreamedVector : WholeVector {
  HWY_INLINE void store(FloatVec v, float* p) const { hn::Stream(v, FloatTag(), p); }
  HWY_INLINE void store(FloatVec v, bf16* p) const {
    hn::Stream(narrowed(v), HalfTag(), reinterpret_cast<uint16_t*>(p));
  }
};

// body(T{}, Whole{}) as for_element_type, with the lanes that `out` is to be written with.
template <class Body>
void for_written_type(const Tensor& out, const Body& body) {
  for_element_type(out, [&]<class T>(T element) {
    if (beyond_caches(out))
      body(element, StreamedVector{});
    else
      body(element, WholeVector{});
  });
}

// The first `count` lanes; nothing beyond is touched, lanes beyond load as 0.
struct PartVector {
  int64_t count;
  HWY_INLINE auto mask() const { return hn::FirstN(FloatTag(), static_cast<size_t>(count)); }
  HWY_INLINE FloatVec load(const float* p) const { return hn::MaskedLoad(mask(), FloatTag(), p); }
  HWY_INLINE FloatVec load(const bf16* p) const {
    bf16 copy[kVectorLanes] = {};
    std::memcpy(copy, p, static_cast<size_t>(count) * sizeof(bf16));
    return WholeVector().load(copy);
  }
  HWY_INLINE void store(FloatVec v, float* p) const { hn::BlendedStore(v, mask(), FloatTag(), p); }
  HWY_INLINE void store(FloatVec v, bf16* p) const {
    bf16 copy[kVectorLanes];
    WholeVector().store(v, copy);
    std::memcpy(p, copy, static_cast<size_t>(count) * sizeof(bf16));
  }
  HWY_INLINE FloatVec keep(FloatVec v, FloatVec otherwise) const {
    return hn::IfThenElse(mask(), v, otherwise);
  }
};

// body(i, lanes) for vectors starting at i = 0, kVectorLanes, ... of n elements; `lanes` loads and stores.
template <class Whole = WholeVector, class Body>
HWY_INLINE void for_vectors(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + kVectorLanes <= n; i += kVectorLanes) body(i, Whole{});
  if (i < n) body(i, PartVector{n - i});
}

// Joins 16 virtual lanes by halves (8, 4, 2, 1).
HWY_INLINE float join_lanes(const FloatVec* group) {
  alignas(64) float lane[kVirtualLanes];
  for (int k = 0; k < kVectorsPerGroup; ++k) hn::Store(group[k], FloatTag(), lane + k * kVectorLanes);
  const hn::CappedTag<float, 4> d4;
  const auto low = hn::Add(hn::Load(d4, lane), hn::Load(d4, lane + 8));
  const auto high = hn::Add(hn::Load(d4, lane + 4), hn::Load(d4, lane + 12));
  hn::Store(hn::Add(low, high), d4, lane);
  return (lane[0] + lane[2]) + (lane[1] + lane[3]);
}

// A sum of n terms: virtual lane j takes elements j, j + 16, ... in order. body(i, lanes, sum) adds the terms
// of the vector at i to `sum`; what it does to lanes beyond the end is undone (even adding 0 would turn a −0,
// left by products that underflowed, into a +0, for as many lanes as a vector happens to have).
template <class Whole = WholeVector, class Body>
HWY_INLINE float sum_in_lanes(int64_t n, const Body& body) {
  FloatVec group[kVectorsPerGroup];
  for (int k = 0; k < kVectorsPerGroup; ++k) group[k] = hn::Zero(FloatTag());
  int64_t i = 0;
  for (; i + kVirtualLanes <= n; i += kVirtualLanes)
    for (int k = 0; k < kVectorsPerGroup; ++k) body(i + k * kVectorLanes, Whole{}, group[k]);
  for (int k = 0; k < kVectorsPerGroup; ++k, i += kVectorLanes) {
    if (n - i >= kVectorLanes) {
      body(i, Whole{}, group[k]);
    } else if (n > i) {
      const PartVector lanes{n - i};
      const FloatVec before = group[k];
      body(i, lanes, group[k]);
      group[k] = lanes.keep(group[k], before);
    }
  }
  return join_lanes(group);
}

}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
