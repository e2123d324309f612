// Packing of matrix-product operands into k-outer strips of f32, per SIMD target.

// Per-target include guard (Highway's convention: included once for every target).
#if defined(MORAY_MATMUL_PACK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MORAY_MATMUL_PACK_INL_H_
#undef MORAY_MATMUL_PACK_INL_H_
#else
#define MORAY_MATMUL_PACK_INL_H_
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "backend/cpu/matmul_kernel.h"
#include "backend/cpu/weight_words-inl.h"
#include "tensor/panels.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;
constexpr size_t kLanes = HWY_TARGET == HWY_AVX3 ? 16 : 8;

HWY_INLINE float element(const float* p) {
  return *p;
}
HWY_INLINE float element(const bf16* p) {
  return to_float(*p);
}
HWY_INLINE float element(const e4m3* p) {
  return to_float(*p);
}

// As many elements as `d` has lanes, widened to f32.
template <class DF>
HWY_INLINE hn::Vec<DF> load_floats(DF d, const float* p) {
  return hn::LoadU(d, p);
}
template <class DF>
HWY_INLINE hn::Vec<DF> load_floats(DF d, const bf16* p) {
  const hn::RebindToUnsigned<DF> du32;
  const hn::Rebind<uint16_t, DF> du16;
  const auto bits = hn::LoadU(du16, reinterpret_cast<const uint16_t*>(p));
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du32, bits)));
}

// As FP32 bits the magnitude of an E4M3 code lacks only the difference of the biases, 2¹²⁰; exact, also of
// subnormal numbers. NaN stays NaN.
template <class DF>
HWY_INLINE hn::Vec<DF> load_floats(DF d, const e4m3* p) {
  const hn::RebindToSigned<DF> di;
  const hn::Rebind<int8_t, DF> d8;
  const auto code = hn::PromoteTo(di, hn::LoadU(d8, reinterpret_cast<const int8_t*>(p)));
  const auto magnitude = hn::And(code, hn::Set(di, 0x7f));
  const auto value = hn::Mul(hn::BitCast(d, hn::ShiftLeft<20>(magnitude)), hn::Set(d, 0x1p120f));
  const auto nan = hn::Eq(magnitude, hn::Set(di, 0x7f));
  const auto number = hn::IfThenElse(nan, hn::Set(di, 0x7fc00000), hn::BitCast(di, value));
  return hn::BitCast(d, hn::Or(number, hn::And(code, hn::Set(di, static_cast<int32_t>(0x80000000u)))));
}

// The first `count` lanes; nothing beyond is read.
HWY_INLINE V load_some(const float* p, size_t count) {
  return hn::MaskedLoad(hn::FirstN(D(), count), D(), p);
}
template <class T>
HWY_INLINE V load_some(const T* p, size_t count) {
  T copy[kLanes] = {};
  std::memcpy(copy, p, count * sizeof(T));
  return load_floats(D(), copy);
}

// Four k of kLanes rows as one vector: block b holds row `first + 4·b`.
template <class T>
HWY_INLINE V load_quads(const std::array<const T*, kLanes>& rows, size_t first, int64_t k) {
  const hn::CappedTag<float, 4> d4;
  const auto quad = load_floats(d4, rows[first] + k), next = load_floats(d4, rows[first + 4] + k);
#if HWY_TARGET == HWY_AVX3
  const hn::CappedTag<float, 8> d8;
  const auto third = load_floats(d4, rows[first + 8] + k), fourth = load_floats(d4, rows[first + 12] + k);
  return hn::Combine(D(), hn::Combine(d8, fourth, third), hn::Combine(d8, next, quad));
#else
  return hn::Combine(D(), next, quad);
#endif
}

// Four k of kLanes rows each, transposed: to[k · stride + i].
template <class T>
HWY_INLINE void transpose_quads(const std::array<const T*, kLanes>& rows, int64_t k, size_t stride,
                                float* to) {
  const D d;
  const V q0 = load_quads(rows, 0, k), q1 = load_quads(rows, 1, k);
  const V q2 = load_quads(rows, 2, k), q3 = load_quads(rows, 3, k);
  // 4 × 4 transposes inside each 128-bit block.
  const V k01_r01 = hn::InterleaveLower(d, q0, q1), k23_r01 = hn::InterleaveUpper(d, q0, q1);
  const V k01_r23 = hn::InterleaveLower(d, q2, q3), k23_r23 = hn::InterleaveUpper(d, q2, q3);
  const hn::Repartition<double, D> d64;
  const auto as64 = [d64](V v) HWY_ATTR { return hn::BitCast(d64, v); };
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d64, as64(k01_r01), as64(k01_r23))), d, to);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d64, as64(k01_r01), as64(k01_r23))), d, to + stride);
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d64, as64(k23_r01), as64(k23_r23))), d, to + 2 * stride);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d64, as64(k23_r01), as64(k23_r23))), d, to + 3 * stride);
}

// Rows contiguous in k are transposed: to[k · stride + i]. Writes whole vectors in ascending k, so up to
// kLanes - 1 floats behind each k's `count` are overwritten later or are padding.
//
// Rows a multiple of 4 KiB apart, as those of many weights are, fall on one set of L1, and 16 are more than
// its ways hold: taken four k at a time, every line would be fetched four times. So a few lines of each row
// are copied first, to where they lie side by side.
template <class T>
void pack_transposed(const T* from, int64_t from_stride, int64_t count, int64_t length, size_t stride,
                     float* to) {
  constexpr int64_t kTogether = 64;  // k: 4 KiB of copies
  constexpr size_t kApart = size_t{kTogether} + 64 / sizeof(T);
  HWY_ALIGN T copies[kLanes * kApart];
  std::array<const T*, kLanes> rows;  // rows beyond count repeat the last: their lanes are never read
  for (size_t i = 0; i < kLanes; ++i) rows[i] = copies + std::min(i, static_cast<size_t>(count - 1)) * kApart;
  int64_t k = 0;
  const bool one_set = kLanes == 16 && from_stride * int64_t{sizeof(T)} % 4096 == 0;
  for (; one_set && k + kTogether <= length; k += kTogether) {
    for (int64_t i = 0; i < count; ++i) {
      const T* row = from + i * from_stride + k;
      T* copy = copies + static_cast<size_t>(i) * kApart;
      const hn::ScalableTag<uint8_t> d8;
      for (size_t at = 0; at < size_t{kTogether} * sizeof(T); at += 64)
        for (size_t part = at; part < at + 64; part += hn::Lanes(d8))
          hn::StoreU(hn::LoadU(d8, reinterpret_cast<const uint8_t*>(row) + part), d8,
                     reinterpret_cast<uint8_t*>(copy) + part);
    }
    for (int64_t at = 0; at < kTogether; at += 4, to += 4 * stride) transpose_quads(rows, at, stride, to);
  }
  for (size_t i = 0; i < kLanes; ++i)
    rows[i] = from + std::min(static_cast<int64_t>(i), count - 1) * from_stride;
  for (; k + 4 <= length; k += 4, to += 4 * stride) transpose_quads(rows, k, stride, to);
  for (; k < length; ++k, to += stride)
    for (size_t i = 0; i < static_cast<size_t>(count); ++i) to[i] = element(rows[i] + k);
}

// Rows contiguous over outputs are copied, the lanes beyond count zero (and overwritten by the next k where
// stride < kLanes).
template <class T>
void pack_copied(const T* from, int64_t from_stride, int64_t count, int64_t length, size_t stride,
                 float* to) {
  const D d;
  if (count == static_cast<int64_t>(kLanes)) {
    for (int64_t k = 0; k < length; ++k, to += stride) {
      const T* row = from + k * from_stride;
      hwy::Prefetch(row + stride);  // the next strip: rows are too far apart for the hardware to see
      hn::StoreU(load_floats(d, row), d, to);
    }
  } else {
    for (int64_t k = 0; k < length; ++k, to += stride)
      hn::StoreU(load_some(from + k * from_stride, static_cast<size_t>(count)), d, to);
  }
}

// body(data) with the operand's elements in their type.
template <class Body>
void with_elements(const MatmulOperand& operand, const Body& body) {
  switch (operand.dtype) {
    case DType::bf16:
      return body(reinterpret_cast<const bf16*>(operand.data));
    case DType::f8_e4m3:
      return body(reinterpret_cast<const e4m3*>(operand.data));
    default:
      return body(reinterpret_cast<const float*>(operand.data));
  }
}

template <class T>
void pack_strip_of(const MatmulOperand& operand, const T* data, int64_t begin, int64_t count,
                   const KBlock& block, size_t stride, float* to) {
  if (operand.k_outer)
    pack_copied(data + block.begin * operand.stride + begin, operand.stride, count, block.length, stride, to);
  else
    pack_transposed(data + begin * operand.stride + block.begin, operand.stride, count, block.length, stride,
                    to);
}

// Words of panels are widened, kLanes vectors at a time: whole ones, for panels are.
template <class T>
void pack_panel_strip(const MatmulOperand& operand, int64_t begin, const KBlock& block, size_t stride,
                      float* to) {
  constexpr auto kEach = static_cast<int64_t>(kInWord<T>);
  const auto* words = reinterpret_cast<const uint32_t*>(operand.data) +
                      (begin / kPanelRows * operand.stride + block.begin) / kEach * kPanelRows +
                      begin % kPanelRows;
  for (int64_t k = 0; k < block.length; k += kEach, words += kPanelRows) {
    const WordVec word = hn::LoadU(WordTag(), words);
    for_elements_of_word<T>([&]<size_t j>(std::integral_constant<size_t, j>)
                                HWY_ATTR { hn::StoreU(widen<T, j>(word), D(), to + j * stride); });
    to += kInWord<T> * stride;
  }
}

// Vectors [begin, begin + count), count <= kLanes, of an operand over one k-block as to[k · stride + i]. May
// write up to kLanes - count floats (uninitialised) behind the last.
void pack_strip(const MatmulOperand& operand, int64_t begin, int64_t count, const KBlock& block,
                size_t stride, float* to) {
  if (!operand.panels)
    with_elements(operand,
                  [&](const auto* data) { pack_strip_of(operand, data, begin, count, block, stride, to); });
  else
    with_elements(operand,
                  [&]<class T>(const T*) { pack_panel_strip<T>(operand, begin, block, stride, to); });
}

}  // namespace
}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
