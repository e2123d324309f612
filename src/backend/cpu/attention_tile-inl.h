// The small matrix products of attention: blocks of at most 128 × 128 whose right operand is packed in
// panels, or lies elsewhere and gives vectors of a step's columns as RightOperand does.
//
// A panel is 16 columns of a matrix, step after step: panels[column / 16][step][column % 16]. Each product is
// one FMA chain over `depth` (at most 128) steps from 0, the canonical `part`; Join says how it meets what C
// holds.

// Included once per Highway target, hence the toggled guard.
#if defined(MORAY_BACKEND_CPU_ATTENTION_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MORAY_BACKEND_CPU_ATTENTION_TILE_INL_H_
#undef MORAY_BACKEND_CPU_ATTENTION_TILE_INL_H_
#else
#define MORAY_BACKEND_CPU_ATTENTION_TILE_INL_H_
#endif

#include <algorithm>

#include "backend/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {

constexpr int64_t kPanel = 16;

constexpr int64_t padded(int64_t width) {
  return (width + kPanel - 1) / kPanel * kPanel;
}

// C = 0 + part, C += part, or C = fma(scale of the row, C, part).
enum class Join { set, add, scale_add };

// A row-major: element (row, step) at a[row·stride + step]; by columns: a[step·stride + row].
enum class Order { rows, columns };

struct LeftOperand {
  const float* data;
  int64_t stride;
};

struct RightOperand {
  const float* panels;   // at the first step
  int64_t panel_stride;  // floats from panel to panel

  // From a column on that begins a panel.
  HWY_INLINE RightOperand from(int64_t column) const {
    return {panels + column / kPanel * panel_stride, panel_stride};
  }
  // Vector v of a step.
  HWY_INLINE FloatVec load(int64_t step, int v) const {
    return hn::Load(FloatTag(), panels + (v / kVectorsPerGroup) * panel_stride + step * kPanel +
                                    (v % kVectorsPerGroup) * kVectorLanes);
  }
};

struct Output {
  float* data;
  int64_t stride;
  int64_t columns;                   // those from here on that exist in C; all others are left alone
  const float* row_scale = nullptr;  // Join::scale_add
};

// Rows of a register tile: kTileRows × kTilePanels panels of accumulators, the panels of one step and a
// broadcast fit the registers (16 with AVX2: 6·2 + 2 + 1; 32 with AVX-512: 8·2 + 2, broadcasts being operands
// of the FMA).
constexpr int kTileRows = HWY_TARGET == HWY_AVX3 ? 8 : 6;
constexpr int kTilePanels = HWY_TARGET == HWY_AVX3 ? 2 : 1;

template <Join kJoin, class Lanes>
HWY_INLINE void join_vector(FloatVec part, float* c, float row_scale, Lanes lanes) {
  if constexpr (kJoin == Join::set) lanes.store(hn::Add(hn::Zero(FloatTag()), part), c);
  if constexpr (kJoin == Join::add) lanes.store(hn::Add(lanes.load(c), part), c);
  if constexpr (kJoin == Join::scale_add) lanes.store(hn::MulAdd(splat(row_scale), lanes.load(c), part), c);
}

template <int kRows, int kPanels, Order kOrder, Join kJoin, class Right>
HWY_NOINLINE void multiply_tile(LeftOperand a, Right b, int64_t depth, Output c) {
  constexpr int kVectors = kPanels * kVectorsPerGroup;
  FloatVec part[kRows][kVectors];
  HWY_UNROLL(8)
  for (int r = 0; r < kRows; ++r) HWY_UNROLL(8)
  for (int v = 0; v < kVectors; ++v) part[r][v] = hn::Zero(FloatTag());
  for (int64_t step = 0; step < depth; ++step) {
    FloatVec right[kVectors];
    HWY_UNROLL(8)
    for (int v = 0; v < kVectors; ++v) right[v] = b.load(step, v);
    HWY_UNROLL(8)
    for (int r = 0; r < kRows; ++r) {
      const FloatVec left =
          splat(kOrder == Order::rows ? a.data[r * a.stride + step] : a.data[step * a.stride + r]);
      HWY_UNROLL(8)
      for (int v = 0; v < kVectors; ++v) part[r][v] = hn::MulAdd(left, right[v], part[r][v]);
    }
  }
  const bool whole = c.columns >= kPanels * kPanel;
  HWY_UNROLL(8)
  for (int r = 0; r < kRows; ++r) {
    const float row_scale = kJoin == Join::scale_add ? c.row_scale[r] : 0.0f;
    HWY_UNROLL(8)
    for (int v = 0; v < kVectors; ++v) {
      float* at = c.data + r * c.stride + v * kVectorLanes;
      const int64_t left = c.columns - v * kVectorLanes;
      if (whole || left >= kVectorLanes)
        join_vector<kJoin>(part[r][v], at, row_scale, WholeVector{});
      else if (left > 0)
        join_vector<kJoin>(part[r][v], at, row_scale, PartVector{left});
    }
  }
}

// The tile of 1 to kTileRows rows.
template <int kPanels, Order kOrder, Join kJoin, int kRows = kTileRows, class Right>
HWY_INLINE void multiply_rows(int64_t rows, LeftOperand a, Right b, int64_t depth, Output c) {
  if (rows >= kRows) return multiply_tile<kRows, kPanels, kOrder, kJoin>(a, b, depth, c);
  if constexpr (kRows > 1) multiply_rows<kPanels, kOrder, kJoin, kRows - 1>(rows, a, b, depth, c);
}

template <int kPanels, Order kOrder, Join kJoin, class Right>
HWY_INLINE void multiply_panels(int64_t rows, LeftOperand a, Right b, int64_t depth, Output c) {
  for (int64_t r = 0; r < rows; r += kTileRows) {
    const int64_t row_step = kOrder == Order::rows ? a.stride : 1;
    multiply_rows<kPanels, kOrder, kJoin>(
        std::min<int64_t>(kTileRows, rows - r), {a.data + r * row_step, a.stride}, b, depth,
        {c.data + r * c.stride, c.stride, c.columns, kJoin == Join::scale_add ? c.row_scale + r : nullptr});
  }
}

// C (rows × c.columns) joined with A (rows × depth) · B (depth × c.columns).
template <Order kOrder, Join kJoin, class Right = RightOperand>
void multiply(int64_t rows, LeftOperand a, Right b, int64_t depth, Output c) {
  int64_t column = 0;
  for (; column + (kTilePanels - 1) * kPanel < c.columns; column += kTilePanels * kPanel)
    multiply_panels<kTilePanels, kOrder, kJoin>(rows, a, b.from(column), depth,
                                                {c.data + column, c.stride, c.columns - column, c.row_scale});
  if (column < c.columns)
    multiply_panels<1, kOrder, kJoin>(rows, a, b.from(column), depth,
                                      {c.data + column, c.stride, c.columns - column, c.row_scale});
}

// Packs rows as steps: row r of the source is step r of panels over its columns. Row by row, because the
// source's rows often lie pages apart.
inline void pack_rows(const float* source, int64_t stride, int64_t rows, int64_t width, int64_t panel_stride,
                      float* panels) {
  const FloatTag d;
  for (int64_t row = 0; row < rows; ++row) {
    const float* from = source + row * stride;
    float* out = panels + row * kPanel;
    int64_t i = 0;
    for (; i + kPanel <= width; i += kPanel, out += panel_stride)
      for (int64_t v = 0; v < kPanel; v += kVectorLanes) hn::Store(hn::LoadU(d, from + i + v), d, out + v);
    if (i == width) continue;
    for (int64_t v = 0; v < kPanel; v += kVectorLanes) {
      const int64_t count = std::clamp<int64_t>(width - i - v, 0, kVectorLanes);
      hn::Store(count > 0 ? PartVector{count}.load(from + i + v) : hn::Zero(d), d, out + v);
    }
  }
}

// Four rows of four floats, transposed to steps of a panel.
HWY_INLINE void transpose_square(const float* in, int64_t stride, float* out) {
  const hn::CappedTag<float, 4> d;
  const hn::Repartition<double, decltype(d)> dd;
  const auto r0 = hn::LoadU(d, in), r1 = hn::LoadU(d, in + stride);
  const auto r2 = hn::LoadU(d, in + 2 * stride), r3 = hn::LoadU(d, in + 3 * stride);
  const auto low01 = hn::BitCast(dd, hn::InterleaveLower(d, r0, r1));
  const auto low23 = hn::BitCast(dd, hn::InterleaveLower(d, r2, r3));
  const auto high01 = hn::BitCast(dd, hn::InterleaveUpper(d, r0, r1));
  const auto high23 = hn::BitCast(dd, hn::InterleaveUpper(d, r2, r3));
  hn::Store(hn::BitCast(d, hn::InterleaveLower(dd, low01, low23)), d, out);
  hn::Store(hn::BitCast(d, hn::InterleaveUpper(dd, low01, low23)), d, out + kPanel);
  hn::Store(hn::BitCast(d, hn::InterleaveLower(dd, high01, high23)), d, out + 2 * kPanel);
  hn::Store(hn::BitCast(d, hn::InterleaveUpper(dd, high01, high23)), d, out + 3 * kPanel);
}

// Packs the transpose: the source's `width` columns are the steps, its rows the columns of the panels (zeros
// beyond the last row).
inline void pack_transposed(const float* source, int64_t stride, int64_t rows, int64_t width, float* panels) {
  for (int64_t row = 0; row < padded(rows); row += 4) {
    float* out = panels + row / kPanel * width * kPanel + row % kPanel;
    const float* in = source + row * stride;
    const int64_t count = std::clamp<int64_t>(rows - row, 0, 4);
    int64_t i = 0;
    if (count == 4)
      for (; i + 4 <= width; i += 4) transpose_square(in + i, stride, out + i * kPanel);
    for (; i < width; ++i)
      for (int64_t r = 0; r < 4; ++r) out[i * kPanel + r] = r < count ? in[r * stride + i] : 0.0f;
  }
}

}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
