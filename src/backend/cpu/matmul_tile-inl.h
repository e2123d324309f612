// The register tile under every matrix product: rows of packed A × columns of packed B over a list of
// k-blocks.

// Per-target include guard (Highway's convention: included once for every target).
#if defined(MORAY_MATMUL_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MORAY_MATMUL_TILE_INL_H_
#undef MORAY_MATMUL_TILE_INL_H_
#else
#define MORAY_MATMUL_TILE_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "backend/cpu/matmul_pack-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {
namespace {

// AVX-512: 14 × 2 vectors of running partial sums, 2 of B, 1 broadcast of A out of 32 registers.
// AVX2: 6 × 2 of 16. Both leave enough independent FMA chains (two units × four or five cycles) and load less
// than the load ports give: 2 + rows loads for 2 · rows FMAs.
constexpr size_t kTileRows = HWY_TARGET == HWY_AVX3 ? 14 : 6;
constexpr size_t kTileVectors = 2;
constexpr size_t kTileColumns = kTileVectors * kLanes;

// Memory that will be wanted soon, as runs of cache lines: a register tile asks for one line at each step of
// k, so that memory works while the multipliers do. Asked for in one burst, lines would hold up the loads
// behind them.
struct Wanted {
  const std::byte* line = nullptr;
  int64_t lines = 1;  // of a run
  int64_t jump = 0;   // bytes from behind a run to the next
  int64_t left = 0;   // lines still to be asked for in all
  int64_t in_run = 1;

  static Wanted runs(const void* first, int64_t run_bytes, int64_t stride_bytes, int64_t count) {
    const int64_t lines = (run_bytes + kLine - 1) / kLine;
    return {static_cast<const std::byte*>(first), lines, stride_bytes - lines * kLine, lines * count, lines};
  }

  HWY_INLINE void ask() {
    __builtin_prefetch(line, 0, 2);  // into L2: L1 is full of strips
    line += kLine;
    --left;
    if (--in_run == 0) {
      in_run = lines;
      line += jump;
    }
  }

 private:
  static constexpr int64_t kLine = 64;
};

// Part `part` of `parts` of the panels of rows [begin, begin + count) over some k.
Wanted wanted_panels(const MatmulOperand& operand, int64_t begin, int64_t count, const KBlock& k,
                     int64_t part, int64_t parts) {
  const int64_t k_bytes = kPanelRows * static_cast<int64_t>(dtype_bytes(operand.dtype));
  const int64_t lines = k.length * k_bytes / kPanelLineBytes;
  const int64_t first = lines * part / parts, last = lines * (part + 1) / parts;
  const std::byte* panel = operand.data + begin / kPanelRows * operand.stride * k_bytes;
  return Wanted::runs(panel + k.begin * k_bytes + first * kPanelLineBytes, (last - first) * kPanelLineBytes,
                      operand.stride * k_bytes, first < last ? (count + kPanelRows - 1) / kPanelRows : 0);
}

// Vectors [begin, begin + count) of an operand over one k-block.
Wanted wanted_vectors(const MatmulOperand& operand, int64_t begin, int64_t count, const KBlock& block) {
  if (count <= 0) return {};
  if (operand.panels) return wanted_panels(operand, begin, count, block, 0, 1);
  const auto bytes = static_cast<int64_t>(dtype_bytes(operand.dtype));
  const int64_t at =
      operand.k_outer ? block.begin * operand.stride + begin : begin * operand.stride + block.begin;
  return Wanted::runs(operand.data + at * bytes, (operand.k_outer ? count : block.length) * bytes,
                      operand.stride * bytes, operand.k_outer ? block.length : count);
}

// Scales of rows of A and columns of B, block after block of a chunk.
struct TileScales {
  const float *a = nullptr, *b = nullptr;
  size_t a_stride = 0, b_stride = 0;

  TileScales from(int64_t row, int64_t column) const { return {a + row, b + column, a_stride, b_stride}; }
  HWY_INLINE void next_block() {
    a += a_stride;
    b += b_stride;
  }
};

// The running sum of row i, vector v of a tile after a block.
template <bool kScaled>
HWY_INLINE V joined(const TileScales& scales, size_t i, size_t v, V part, V run) {
  if constexpr (kScaled) {
    const V scale = hn::Mul(hn::Set(D(), scales.a[i]), hn::LoadU(D(), scales.b + v * kLanes));
    return hn::MulAdd(scale, part, run);
  } else {
    return hn::Add(run, part);
  }
}

// One k of a register tile: sum[i][v] += a[i] · b[v], fused.
template <size_t kRows, size_t kVectors>
HWY_INLINE void multiply_add(const float* HWY_RESTRICT a, const float* HWY_RESTRICT b,
                             V (&sum)[kRows][kVectors]) {
  const D d;
  V b_k[kVectors];
#pragma GCC unroll 2
  for (size_t v = 0; v < kVectors; ++v) b_k[v] = hn::Load(d, b + v * kLanes);
#pragma GCC unroll 16
  for (size_t i = 0; i < kRows; ++i) {
    const V a_ik = hn::Set(d, a[i]);
#pragma GCC unroll 2
    for (size_t v = 0; v < kVectors; ++v) sum[i][v] = hn::MulAdd(a_ik, b_k[v], sum[i][v]);
  }
}

// One register tile over all k-blocks of a chunk: a is a packed strip of kRows rows, b a packed strip of
// kTileColumns.
template <bool kScaled, size_t kRows, size_t kVectors>
void register_tile(std::span<const KBlock> blocks, TileScales scales, const float* HWY_RESTRICT a,
                   const float* HWY_RESTRICT b, float* c, size_t c_stride, bool from_zero, Wanted wanted) {
  const D d;
#pragma GCC unroll 16
  for (size_t i = 0; i < kRows; ++i)  // wanted after the first block
    for (size_t v = 0; v < kVectors; ++v) hwy::Prefetch(c + i * c_stride + v * kLanes);
  // Between the first block and the last the running sums rest here: rows of C are often a multiple of 4 KiB
  // apart, and then in each other's way in L1.
  HWY_ALIGN float sums[kRows * kVectors * kLanes];
  const float* from = c;
  size_t from_stride = c_stride;
  for (const KBlock& block : blocks) {
    V sum[kRows][kVectors];
#pragma GCC unroll 16
    for (size_t i = 0; i < kRows; ++i)
#pragma GCC unroll 2
      for (size_t v = 0; v < kVectors; ++v) sum[i][v] = hn::Zero(d);

    const auto step = [&]() HWY_ATTR {
      multiply_add(a, b, sum);
      a += kRows;
      b += kTileColumns;
    };
    const int64_t asking = std::min(wanted.left, block.length);
    for (int64_t k = 0; k < asking; ++k) {
      step();
      wanted.ask();
    }
    for (int64_t k = asking; k < block.length; ++k) step();

    const bool last = &block == &blocks.back();
    float* to = last ? c : sums;
    const size_t to_stride = last ? c_stride : kVectors * kLanes;
#pragma GCC unroll 16
    for (size_t i = 0; i < kRows; ++i)
#pragma GCC unroll 2
      for (size_t v = 0; v < kVectors; ++v) {
        const V run = from_zero ? hn::Zero(d) : hn::LoadU(d, from + i * from_stride + v * kLanes);
        hn::StoreU(joined<kScaled>(scales, i, v, sum[i][v], run), d, to + i * to_stride + v * kLanes);
      }
    if constexpr (kScaled) scales.next_block();
    from = sums;
    from_stride = kVectors * kLanes;
    from_zero = false;
  }
}

// The same with the running sums in registers beside the partial ones, for short blocks: there C's way
// through memory would take longer than the products. `a` is a strip of a_step rows, of which this takes
// kRows.
template <bool kScaled, size_t kRows, size_t kVectors>
void short_block_tile(std::span<const KBlock> blocks, TileScales scales, const float* HWY_RESTRICT a,
                      size_t a_step, const float* HWY_RESTRICT b, float* HWY_RESTRICT c, size_t c_stride,
                      bool from_zero, Wanted& wanted) {
  const D d;
  V run[kRows][kVectors];
#pragma GCC unroll 16
  for (size_t i = 0; i < kRows; ++i)
#pragma GCC unroll 2
    for (size_t v = 0; v < kVectors; ++v)
      run[i][v] = from_zero ? hn::Zero(d) : hn::LoadU(d, c + i * c_stride + v * kLanes);
  for (const KBlock& block : blocks) {
    V sum[kRows][kVectors];
#pragma GCC unroll 16
    for (size_t i = 0; i < kRows; ++i)
#pragma GCC unroll 2
      for (size_t v = 0; v < kVectors; ++v) sum[i][v] = hn::Zero(d);
    for (int64_t k = 0; k < block.length; ++k) {
      multiply_add(a, b, sum);
      if (wanted.left > 0) wanted.ask();
      a += a_step;
      b += kTileColumns;
    }
#pragma GCC unroll 16
    for (size_t i = 0; i < kRows; ++i)
#pragma GCC unroll 2
      for (size_t v = 0; v < kVectors; ++v) run[i][v] = joined<kScaled>(scales, i, v, sum[i][v], run[i][v]);
    if constexpr (kScaled) scales.next_block();
  }
#pragma GCC unroll 16
  for (size_t i = 0; i < kRows; ++i)
#pragma GCC unroll 2
    for (size_t v = 0; v < kVectors; ++v) hn::StoreU(run[i][v], d, c + i * c_stride + v * kLanes);
}

// 5 × 2 × 2 sums, 2 of B and 1 of A leave a few of 32 registers free; AVX2: 3 × 2 × 2 of 16.
constexpr size_t kShortBlockRows = HWY_TARGET == HWY_AVX3 ? 5 : 3;
// Mean length of a block up to which this is used. Measured on a Zen 4, weight gradients of experts: blocks
// of 8 65% of peak with the full tile and 75% with this one; Zipf-skewed loads alike for limits of 5, 8
// and 16.
constexpr int64_t kShortBlock = 16;

template <bool kScaled, size_t kRows, size_t kVectors>
void short_block_tiles(std::span<const KBlock> blocks, TileScales scales, const float* HWY_RESTRICT a,
                       const float* HWY_RESTRICT b, float* HWY_RESTRICT c, size_t c_stride, bool from_zero,
                       Wanted wanted) {
  constexpr size_t kFirst = std::min(kRows, kShortBlockRows);
  constexpr size_t kSecond = std::min(kRows - kFirst, kShortBlockRows);
  constexpr size_t kThird = kRows - kFirst - kSecond;
  static_assert(kThird <= kShortBlockRows);
  short_block_tile<kScaled, kFirst, kVectors>(blocks, scales, a, kRows, b, c, c_stride, from_zero, wanted);
  if constexpr (kSecond > 0)
    short_block_tile<kScaled, kSecond, kVectors>(blocks, scales.from(kFirst, 0), a + kFirst, kRows, b,
                                                 c + kFirst * c_stride, c_stride, from_zero, wanted);
  if constexpr (kThird > 0)
    short_block_tile<kScaled, kThird, kVectors>(
        blocks, scales.from(kFirst + kSecond, 0), a + kFirst + kSecond, kRows, b,
        c + (kFirst + kSecond) * c_stride, c_stride, from_zero, wanted);
}

using RegisterTileFunction = void (*)(std::span<const KBlock>, TileScales, const float*, const float*, float*,
                                      size_t, bool, Wanted);
using RegisterTiles = std::array<std::array<RegisterTileFunction, kTileVectors>, kTileRows>;

template <bool kScaled, size_t... kRowsLessOne>
constexpr RegisterTiles register_tiles(std::index_sequence<kRowsLessOne...>) {
  return {{{register_tile<kScaled, kRowsLessOne + 1, 1>, register_tile<kScaled, kRowsLessOne + 1, 2>}...}};
}
template <bool kScaled, size_t... kRowsLessOne>
constexpr RegisterTiles short_tiles(std::index_sequence<kRowsLessOne...>) {
  return {{{short_block_tiles<kScaled, kRowsLessOne + 1, 1>,
            short_block_tiles<kScaled, kRowsLessOne + 1, 2>}...}};
}
constexpr auto kAllRows = std::make_index_sequence<kTileRows>();
constexpr RegisterTiles kRegisterTiles[] = {register_tiles<false>(kAllRows), register_tiles<true>(kAllRows)};
constexpr RegisterTiles kShortBlockTiles[] = {short_tiles<false>(kAllRows), short_tiles<true>(kAllRows)};

// The last columns of C need not fill a vector: they pass through a full tile.
void edge_tile(RegisterTileFunction function, size_t rows, size_t columns, std::span<const KBlock> blocks,
               const TileScales& scales, const float* a, const float* b, float* c, size_t c_stride,
               bool from_zero, const Wanted& wanted) {
  HWY_ALIGN float tile[kTileRows * kTileColumns];
  for (size_t i = 0; i < rows; ++i)
    for (size_t j = 0; j < kTileColumns; ++j)
      tile[i * kTileColumns + j] = !from_zero && j < columns ? c[i * c_stride + j] : 0.0f;
  function(blocks, scales, a, b, tile, kTileColumns, from_zero, wanted);
  for (size_t i = 0; i < rows; ++i)
    std::memcpy(c + i * c_stride, tile + i * kTileColumns, columns * sizeof(float));
}

}  // namespace
}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
