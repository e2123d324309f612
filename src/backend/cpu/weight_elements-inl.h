// Elements of a weight in rows as FP32: what ops/weight_matmul.h says an element is, a code times its scale,
// rounded once.

// Included once per Highway target, hence the toggled guard.
#if defined(MORAY_WEIGHT_ELEMENTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MORAY_WEIGHT_ELEMENTS_INL_H_
#undef MORAY_WEIGHT_ELEMENTS_INL_H_
#else
#define MORAY_WEIGHT_ELEMENTS_INL_H_
#endif

#include <array>

#include "backend/cpu/narrow-inl.h"
#include "ops/weight_matmul.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {
namespace {

struct Int4 {};  // the element type of rows of 4 bits

// A weight without its shape's checks, for loops over rows.
struct WeightRows {
  const std::byte* values;
  const float* scales;
  int64_t inputs, row_bytes, scale_stride, first_row;

  explicit WeightRows(const StoredWeight& w)
      : values(w.values_OI.raw()),
        scales(w.scales.defined() ? w.scales.data<float>() : nullptr),
        inputs(w.inputs()),
        row_bytes(static_cast<int64_t>(w.values_OI.bytes()) / std::max<int64_t>(w.outputs(), 1)),
        scale_stride(w.scales.defined() ? w.scales.extent(1) : 0),
        first_row(w.first_row) {
    MORAY_CHECK(w.values_OI.layout() == TensorLayout::rows, "a weight in panels, expected rows");
  }

  const std::byte* row(int64_t index) const { return values + index * row_bytes; }
};

constexpr int64_t kGroupVectors = kInt4Group / kVectorLanes;
using ElementGroup = FloatVec[kGroupVectors];  // of 32 columns

template <class Piece>
HWY_INLINE void load_vectors(const Piece& piece, int64_t i, ElementGroup& to) {
  HWY_UNROLL(4)
  for (int64_t v = 0; v < kGroupVectors; ++v) to[v] = piece.load(i + v * kVectorLanes, WholeVector{});
}

// Columns of a row from `column`, a multiple of 128, on and within its block of 128: load(i, lanes) is those
// from column + i on, i a multiple of the lanes; load_group(i, to) 32 of them. `at` is where their codes
// begin.
template <class Element>
struct RowPiece {  // f32 and bf16
  const std::byte* at;

  RowPiece(const WeightRows& w, int64_t row, int64_t column)
      : at(w.row(row) + column * int64_t{sizeof(Element)}) {}
  static constexpr int64_t bytes(int64_t columns) { return columns * int64_t{sizeof(Element)}; }
  template <class Lanes>
  HWY_INLINE FloatVec load(int64_t i, Lanes lanes) const {
    return lanes.load(reinterpret_cast<const Element*>(at) + i);
  }
  HWY_INLINE void load_group(int64_t i, ElementGroup& to) const { load_vectors(*this, i, to); }
};

template <>
struct RowPiece<int8_t> {
  const std::byte* at;
  float scale;

  RowPiece(const WeightRows& w, int64_t row, int64_t column)
      : at(w.row(row) + column), scale(w.scales[row * w.scale_stride + column / kIntBlock]) {}
  static constexpr int64_t bytes(int64_t columns) { return columns; }
  template <class Lanes>
  HWY_INLINE FloatVec load(int64_t i, Lanes lanes) const {
    const hn::Rebind<int8_t, IntTag> d8;
    const IntVec codes =
        hn::PromoteTo(IntTag(), load_small(d8, reinterpret_cast<const int8_t*>(at) + i, lanes));
    return hn::Mul(hn::ConvertTo(FloatTag(), codes), splat(scale));
  }
  HWY_INLINE void load_group(int64_t i, ElementGroup& to) const { load_vectors(*this, i, to); }
};

// As the bits of an FP32 number the exponent and mantissa of a code, none of them NaN, lack only the
// difference of the biases, 2¹²⁰, which the scale, below 2⁷, can take over.
template <>
struct RowPiece<e4m3> {
  const std::byte* at;
  float scale;

  RowPiece(const WeightRows& w, int64_t row, int64_t column)
      : at(w.row(row) + column),
        scale(w.scales[(w.first_row + row) / kTile * w.scale_stride + column / kTile] * 0x1p120f) {}
  static constexpr int64_t bytes(int64_t columns) { return columns; }
  template <class Lanes>
  HWY_INLINE FloatVec load(int64_t i, Lanes lanes) const {
    const hn::Rebind<int8_t, IntTag> d8;
    const IntVec codes =
        hn::PromoteTo(IntTag(), load_small(d8, reinterpret_cast<const int8_t*>(at) + i, lanes));
    const IntVec bits = hn::And(hn::ShiftLeft<20>(codes), splat_bits(0x87f00000u));
    return hn::Mul(hn::BitCast(FloatTag(), bits), splat(scale));
  }
  HWY_INLINE void load_group(int64_t i, ElementGroup& to) const { load_vectors(*this, i, to); }
};

// s·(2q − 7 − z) = 2s·q − s·(7 + z), exact in FP32, for each byte s + 16·z.
struct Int4Lines {
  std::array<float, 256> slope, offset;
};
constexpr Int4Lines kInt4Lines = [] {
  Int4Lines lines{};
  for (int packed = 0; packed < 256; ++packed) {
    lines.slope[static_cast<size_t>(packed)] = static_cast<float>(2 * (packed & 15));
    lines.offset[static_cast<size_t>(packed)] = static_cast<float>(-(packed & 15) * (7 + (packed >> 4)));
  }
  return lines;
}();

template <>
struct RowPiece<Int4> {
  const std::byte* at;
  const uint8_t* sub_scales;
  float scale;

  RowPiece(const WeightRows& w, int64_t row, int64_t column)
      : at(w.row(row) + column / 2),
        sub_scales(reinterpret_cast<const uint8_t*>(w.row(row)) + w.inputs / 2 + column / kInt4Group),
        scale(w.scales[row * w.scale_stride + column / kIntBlock]) {}
  static constexpr int64_t bytes(int64_t columns) { return columns / 2; }
  // Columns come in groups of 32 alone.
  HWY_INLINE void load_group(int64_t i, ElementGroup& to) const {
    const hn::Rebind<uint8_t, IntTag> d8;
    const int64_t group = i / kInt4Group;
    const auto* codes = reinterpret_cast<const uint8_t*>(at) + i / 2;
    const FloatVec slope = splat(kInt4Lines.slope[sub_scales[group]]);
    const FloatVec offset = splat(kInt4Lines.offset[sub_scales[group]]);
    const auto element = [&](IntVec code) HWY_ATTR {
      return hn::Mul(hn::MulAdd(hn::ConvertTo(FloatTag(), code), slope, offset), splat(scale));
    };
    HWY_UNROLL(2)
    for (int64_t v = 0; v < kGroupVectors / 2; ++v) {
      const IntVec both = hn::PromoteTo(IntTag(), hn::LoadU(d8, codes + v * kVectorLanes));
      to[v] = element(hn::And(both, splat_bits(15)));
      to[kGroupVectors / 2 + v] = element(hn::ShiftRight<4>(both));
    }
  }
};

}  // namespace
}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
