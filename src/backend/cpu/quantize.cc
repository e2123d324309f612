// T rows, D columns, N row blocks.
#include "ops/quantize.h"

#include <atomic>
#include <cfloat>
#include <cmath>

#include "backend/cpu/dispatch.h"
#include "backend/cpu/kernels_list.h"
#include "backend/cpu/pieces.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/quantize.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h, as Highway wants it.
#include "backend/cpu/narrow-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {
namespace {

constexpr uint32_t kInfinityBits = 0x7f800000u;
constexpr int64_t kColumnPiece = 64;  // of token tiles: a cache line of codes

template <class Format>
float largest() {
  return to_float(Format{static_cast<decltype(Format::bits)>(Format::largest_code)});
}

// Shared by the threads of one call; integers, so that the order does not matter.
struct Found {
  std::atomic<int64_t> nans = 0, infinities = 0;

  void count(float value) {
    if (std::isnan(value)) nans.fetch_add(1, std::memory_order_relaxed);
    if (std::isinf(value)) infinities.fetch_add(1, std::memory_order_relaxed);
  }
};

// Online maxima of magnitudes, as bits, which order as the magnitudes do: of finite elements, and of all.
struct Maxima {
  IntVec finite, all;

  static HWY_INLINE Maxima of_nothing() { return {hn::Zero(IntTag()), hn::Zero(IntTag())}; }

  HWY_INLINE void include(FloatVec x) {
    const IntVec magnitude = magnitude_bits(x);
    all = hn::Max(all, magnitude);
    const auto is_finite = hn::Lt(magnitude, splat_bits(kInfinityBits));
    finite = hn::Max(finite, hn::IfThenElseZero(is_finite, magnitude));
  }
  HWY_INLINE bool all_finite() const { return hn::AllTrue(IntTag(), hn::Lt(all, splat_bits(kInfinityBits))); }
};

// A scale for each lane's amax.
HWY_INLINE FloatVec scales_of(FloatVec amax, float most, ScaleFormat format) {
  FloatVec scale = hn::Max(hn::Div(amax, splat(most)), splat(FLT_MIN));
  if (format == ScaleFormat::power_of_two) {
    const IntVec up = hn::Add(hn::BitCast(IntTag(), scale), splat_bits(0x007fffffu));
    scale = hn::BitCast(FloatTag(), hn::And(up, splat_bits(kInfinityBits)));
  }
  return hn::IfThenElse(hn::Eq(amax, hn::Zero(FloatTag())), splat(1), scale);
}

std::byte* code_row(const QuantizedTensor& q, int64_t row) {
  return q.codes.raw() + static_cast<size_t>(row) * q.row_bytes();
}

// One tile of `columns` columns in [row, row_end), rows counted through a stack of matrices.
template <class Format, class T>
void quantize_tile(const T* x, const QuantizedTensor& q, int64_t row, int64_t row_end, int64_t column,
                   int64_t columns, float& scale, Found& found) {
  const int64_t width = q.columns();
  Maxima maxima = Maxima::of_nothing();
  for (int64_t t = row; t < row_end; ++t)
    for_vectors(columns, [&](int64_t i, auto lanes)
                             HWY_ATTR { maxima.include(lanes.load(x + t * width + column + i)); });
  if (!maxima.all_finite())
    for (int64_t t = row; t < row_end; ++t)
      for (int64_t i = 0; i < columns; ++i) {
        if constexpr (std::is_same_v<T, bf16>)
          found.count(to_float(x[t * width + column + i]));
        else
          found.count(x[t * width + column + i]);
      }
  const FloatVec amax = hn::BitCast(FloatTag(), hn::MaxOfLanes(IntTag(), maxima.finite));
  const FloatVec scales = scales_of(amax, largest<Format>(), q.scale_format);
  scale = hn::GetLane(scales);
  for (int64_t t = row; t < row_end; ++t)
    for_vectors(columns, [&](int64_t i, auto lanes) HWY_ATTR {
      const FloatVec value = lanes.load(x + t * width + column + i);
      store_codes<Format>(encode<Format>(hn::Div(value, scales)), code_row(q, t), column + i, lanes);
    });
}

// Row tiles and blocks: threads share strips of 1 or 128 rows.
template <class Format, class T>
void quantize_strips(Exec& exec, const T* x, const QuantizedTensor& q, Found& found) {
  const int64_t width = q.columns(), rows = q.rows_per_matrix();
  const int64_t height = q.tiling == Tiling::blocks ? kTile : 1;
  const int64_t strips_per_matrix = (rows + height - 1) / height, strips = q.matrices() * strips_per_matrix;
  float* scales = q.scales.data<float>();
  const auto body = [&](int64_t begin, int64_t end, int) HWY_ATTR {
    for (int64_t strip = begin; strip < end; ++strip) {
      const int64_t first = strip / strips_per_matrix * rows, row = strip % strips_per_matrix * height;
      for (int64_t tile = 0; tile < q.column_tiles(); ++tile)
        quantize_tile<Format>(x, q, first + row, first + std::min(row + height, rows), tile * kTile,
                              std::min(kTile, width - tile * kTile), scales[strip * q.column_tiles() + tile],
                              found);
    }
  };
  exec.pool->for_ranges(strips, rows_per_piece(height * width), body);
}

// Token tiles of the values that load(row, column, lanes) gives: threads share (row block, piece of columns).
// A vector of columns is read once, into a buffer, because rows lie far apart.
template <class Format, class Load>
void quantize_columns(Exec& exec, const QuantizedTensor& q, Found& found, const Load& load) {
  const int64_t width = q.columns(), pieces = (width + kColumnPiece - 1) / kColumnPiece;
  const int32_t* blocks = q.row_blocks.data<int32_t>();
  const auto body = [&](int64_t begin, int64_t end, int) HWY_ATTR {
    alignas(64) float buffer[kTile * kVectorLanes];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / pieces, column = task % pieces * kColumnPiece;
      const int64_t row = blocks[n], rows = blocks[n + 1] - row;
      for_vectors(std::min(kColumnPiece, width - column), [&](int64_t i, auto lanes) HWY_ATTR {
        Maxima maxima = Maxima::of_nothing();
        for (int64_t t = 0; t < rows; ++t) {
          const FloatVec value = load(row + t, column + i, lanes);
          hn::Store(value, FloatTag(), buffer + t * kVectorLanes);
          maxima.include(value);
        }
        if (!maxima.all_finite())
          for (int64_t j = 0; j < rows * kVectorLanes; ++j) found.count(buffer[j]);
        const FloatVec scales =
            scales_of(hn::BitCast(FloatTag(), maxima.finite), largest<Format>(), q.scale_format);
        lanes.store(scales, q.scales.data<float>() + n * width + column + i);
        for (int64_t t = 0; t < rows; ++t) {
          const FloatVec value = hn::Load(FloatTag(), buffer + t * kVectorLanes);
          store_codes<Format>(encode<Format>(hn::Div(value, scales)), code_row(q, row + t), column + i,
                              lanes);
        }
      });
    }
  };
  const int64_t tasks = (q.row_blocks.extent(0) - 1) * pieces;
  exec.pool->for_ranges(tasks, rows_per_piece(kTile * kColumnPiece), body);
}

template <class T>
void quantize_values(Exec& exec, const T* x, const QuantizedTensor& q, Found& found) {
  for_code_format(q.format, [&]<class Format>(Format) HWY_ATTR {
    if (q.tiling == Tiling::token_tiles)
      quantize_columns<Format>(exec, q, found, [&](int64_t row, int64_t column, auto lanes) HWY_ATTR {
        return lanes.load(x + row * q.columns() + column);
      });
    else
      quantize_strips<Format>(exec, x, q, found);
  });
}

void quantize_tensor(Exec& exec, const Tensor& x, const QuantizedTensor& q, NonFinite& counts) {
  Found found;
  if (x.dtype() == DType::bf16)
    quantize_values(exec, x.data<bf16>(), q, found);
  else
    quantize_values(exec, x.data<float>(), q, found);
  counts += {found.nans.load(), found.infinities.load()};
}

// x of the rows [begin, end), whose scales begin at `scales`: one a column tile, or one a column.
template <class Format, class T>
void dequantize_row(const QuantizedTensor& q, int64_t row, const float* scales, T* x) {
  const bool by_column = q.tiling == Tiling::token_tiles;
  for_vectors(q.columns(), [&](int64_t i, auto lanes) HWY_ATTR {
    const FloatVec scale = by_column ? lanes.load(scales + i) : splat(scales[i / kTile]);
    const FloatVec value = decode<Format>(load_codes<Format>(code_row(q, row), i, lanes));
    lanes.store(hn::Mul(value, scale), x + row * q.columns() + i);
  });
}

template <class Format, class T>
void dequantize_rows(Exec& exec, const QuantizedTensor& q, T* x) {
  const float* scales = q.scales.data<float>();
  if (q.tiling == Tiling::token_tiles) {
    const int32_t* blocks = q.row_blocks.data<int32_t>();
    exec.pool->for_each(q.row_blocks.extent(0) - 1, [&](int64_t n, int) HWY_ATTR {
      for (int64_t t = blocks[n]; t < blocks[n + 1]; ++t)
        dequantize_row<Format>(q, t, scales + n * q.columns(), x);
    });
    return;
  }
  const int64_t rows = q.rows_per_matrix(), total = q.matrices() * rows;
  const int64_t height = q.tiling == Tiling::blocks ? kTile : 1;
  const int64_t strips_per_matrix = (rows + height - 1) / height;
  exec.pool->for_ranges(total, rows_per_piece(q.columns()), [&](int64_t begin, int64_t end, int) HWY_ATTR {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t strip = t / rows * strips_per_matrix + t % rows / height;
      dequantize_row<Format>(q, t, scales + strip * q.column_tiles(), x);
    }
  });
}

void dequantize_tensor(Exec& exec, const QuantizedTensor& q, const Tensor& x) {
  for_code_format(q.format, [&]<class Format>(Format) HWY_ATTR {
    if (x.dtype() == DType::bf16)
      dequantize_rows<Format>(exec, q, x.data<bf16>());
    else
      dequantize_rows<Format>(exec, q, x.data<float>());
  });
}

void retile_tensor(Exec& exec, const QuantizedTensor& q_TD, const QuantizedTensor& token_tiles_TD) {
  Found found;  // counted when the row tiles were made
  const float* scales = q_TD.scales.data<float>();
  const int64_t tiles = q_TD.column_tiles();
  for_code_format(q_TD.format, [&]<class From>(From) HWY_ATTR {
    const auto load = [&](int64_t row, int64_t column, auto lanes) HWY_ATTR {
      const FloatVec value = decode<From>(load_codes<From>(code_row(q_TD, row), column, lanes));
      return hn::Mul(value, splat(scales[row * tiles + column / kTile]));
    };
    for_code_format(token_tiles_TD.format,
                    [&]<class To>(To) HWY_ATTR { quantize_columns<To>(exec, token_tiles_TD, found, load); });
  });
}

QuantizeKernels kernel_table() {
  return {quantize_tensor, dequantize_tensor, retile_tensor};
}

}  // namespace
}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moray::cpu {
namespace {
HWY_EXPORT(kernel_table);
QuantizeKernels table() {
  return HWY_DYNAMIC_DISPATCH(kernel_table)();
}
}  // namespace

void register_quantize() {
  kernels<QuantizeKernels>(Device::cpu) = {dispatched<&QuantizeKernels::quantize, table>,
                                           dispatched<&QuantizeKernels::dequantize, table>,
                                           dispatched<&QuantizeKernels::retile, table>};
}

}  // namespace moray::cpu
#endif  // HWY_ONCE
