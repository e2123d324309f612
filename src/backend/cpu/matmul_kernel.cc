#include "backend/cpu/matmul_kernel.h"

#include <algorithm>
#include <cstring>
#include <utility>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/matmul_kernel.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "backend/cpu/matmul_pack-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

// AVX-512: 14 × 2 vectors of running partial sums, 2 of B, 1 broadcast of A out of 32 registers.
// AVX2: 6 × 2 of 16. Both leave enough independent FMA chains (two units × four or five cycles) and load less
// than the load ports give: 2 + rows loads for 2 · rows FMAs.
constexpr size_t kTileRows = HWY_TARGET == HWY_AVX3 ? 14 : 6;
constexpr size_t kTileVectors = 2;
constexpr size_t kTileColumns = kTileVectors * kLanes;

// One register tile over all k-blocks of a chunk: a is a packed strip of kRows rows, b a packed strip of
// kTileColumns.
template <size_t kRows, size_t kVectors>
void register_tile(std::span<const KBlock> blocks, const float* HWY_RESTRICT a, const float* HWY_RESTRICT b,
                   float* HWY_RESTRICT c, size_t c_stride, bool from_zero) {
  const D d;
  for (const KBlock& block : blocks) {
    V sum[kRows][kVectors];
#pragma GCC unroll 16
    for (size_t i = 0; i < kRows; ++i)
#pragma GCC unroll 2
      for (size_t v = 0; v < kVectors; ++v) sum[i][v] = hn::Zero(d);

    for (int64_t k = 0; k < block.length; ++k) {
      V b_k[kVectors];
#pragma GCC unroll 2
      for (size_t v = 0; v < kVectors; ++v) b_k[v] = hn::Load(d, b + v * kLanes);
#pragma GCC unroll 16
      for (size_t i = 0; i < kRows; ++i) {
        const V a_ik = hn::Set(d, a[i]);
#pragma GCC unroll 2
        for (size_t v = 0; v < kVectors; ++v) sum[i][v] = hn::MulAdd(a_ik, b_k[v], sum[i][v]);
      }
      a += kRows;
      b += kTileColumns;
    }

#pragma GCC unroll 16
    for (size_t i = 0; i < kRows; ++i)
#pragma GCC unroll 2
      for (size_t v = 0; v < kVectors; ++v) {
        float* HWY_RESTRICT run = c + i * c_stride + v * kLanes;
        hn::StoreU(hn::Add(from_zero ? hn::Zero(d) : hn::LoadU(d, run), sum[i][v]), d, run);
      }
    from_zero = false;
  }
}

using RegisterTileFunction = void (*)(std::span<const KBlock>, const float*, const float*, float*, size_t,
                                      bool);

template <size_t... kRowsLessOne>
constexpr auto register_tiles(std::index_sequence<kRowsLessOne...>) {
  return std::array<std::array<RegisterTileFunction, kTileVectors>, kTileRows>{
      {{register_tile<kRowsLessOne + 1, 1>, register_tile<kRowsLessOne + 1, 2>}...}};
}
constexpr auto kRegisterTiles = register_tiles(std::make_index_sequence<kTileRows>());

// The last columns of C need not fill a vector: they pass through a full tile.
void edge_tile(RegisterTileFunction function, size_t rows, size_t columns, std::span<const KBlock> blocks,
               const float* a, const float* b, float* c, size_t c_stride, bool from_zero) {
  HWY_ALIGN float tile[kTileRows * kTileColumns];
  for (size_t i = 0; i < rows; ++i)
    for (size_t j = 0; j < kTileColumns; ++j)
      tile[i * kTileColumns + j] = !from_zero && j < columns ? c[i * c_stride + j] : 0.0f;
  function(blocks, a, b, tile, kTileColumns, from_zero);
  for (size_t i = 0; i < rows; ++i)
    std::memcpy(c + i * c_stride, tile + i * kTileColumns, columns * sizeof(float));
}

// The rows of a task in strips of nearly equal height, so that 16 rows are 8 + 8 and not 14 + 2.
struct Strips {
  int64_t rows, count;
  explicit Strips(int64_t task_rows)
      : rows(task_rows), count((task_rows + int64_t{kTileRows} - 1) / int64_t{kTileRows}) {}
  int64_t begin(int64_t strip) const { return strip * rows / count; }
};

void pack_a(const MatmulTask& task, const Strips& strips, std::span<const KBlock> blocks, int64_t chunk_k,
            float* packed) {
  for (int64_t strip = 0; strip < strips.count; ++strip) {
    const int64_t begin = strips.begin(strip), rows = strips.begin(strip + 1) - begin;
    float* to = packed + begin * chunk_k;
    for (const KBlock& block : blocks) {
      pack_strip(task.problem->a, task.row_begin + begin, rows, block, static_cast<size_t>(rows), to);
      to += rows * block.length;
    }
  }
}

void pack_b(const MatmulTask& task, int64_t column, int64_t columns, std::span<const KBlock> blocks,
            float* packed) {
  for (const KBlock& block : blocks) {
    for (int64_t j = 0; j < columns; j += int64_t{kLanes})
      pack_strip(task.problem->b, column + j, std::min(int64_t{kLanes}, columns - j), block, kTileColumns,
                 packed + j);
    packed += block.length * int64_t{kTileColumns};
  }
}

// C of a task (c points at its first element) += one k-chunk.
void run_chunk(const MatmulTask& task, const MatmulScratch& scratch, std::span<const KBlock> blocks, float* c,
               size_t c_stride, bool from_zero) {
  int64_t chunk_k = 0;
  for (const KBlock& block : blocks) chunk_k += block.length;
  const Strips strips(task.row_end - task.row_begin);
  pack_a(task, strips, blocks, chunk_k, scratch.a);
  for (int64_t column = task.column_begin; column < task.column_end; column += int64_t{kTileColumns}) {
    const int64_t columns = std::min(int64_t{kTileColumns}, task.column_end - column);
    pack_b(task, column, columns, blocks, scratch.b);
    const size_t vectors = columns <= int64_t{kLanes} ? 1 : 2;
    for (int64_t strip = 0; strip < strips.count; ++strip) {
      const int64_t begin = strips.begin(strip);
      const auto rows = static_cast<size_t>(strips.begin(strip + 1) - begin);
      const RegisterTileFunction function = kRegisterTiles[rows - 1][vectors - 1];
      const float* a = scratch.a + begin * chunk_k;
      float* to = c + begin * static_cast<int64_t>(c_stride) + (column - task.column_begin);
      if (static_cast<size_t>(columns) == vectors * kLanes)
        function(blocks, a, scratch.b, to, c_stride, from_zero);
      else
        edge_tile(function, rows, static_cast<size_t>(columns), blocks, a, scratch.b, to, c_stride,
                  from_zero);
    }
  }
}

void run_chunks(const MatmulTask& task, const MatmulScratch& scratch, float* c, size_t c_stride,
                bool from_zero) {
  std::span<const KBlock> rest = task.problem->blocks;
  while (!rest.empty()) {
    size_t count = 1;
    int64_t chunk_k = rest[0].length;
    while (count < rest.size() && chunk_k + rest[count].length <= task.chunk) chunk_k += rest[count++].length;
    run_chunk(task, scratch, rest.first(count), c, c_stride, from_zero);
    rest = rest.subspan(count);
    from_zero = false;
  }
}

// BF16 output: the running sums live in scratch and are rounded once.
void run_rounded(const MatmulTask& task, const MatmulScratch& scratch) {
  const MatmulOutput& output = task.problem->c;
  bf16* c = reinterpret_cast<bf16*>(output.data) + task.row_begin * output.stride + task.column_begin;
  const int64_t rows = task.row_end - task.row_begin, columns = task.column_end - task.column_begin;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j)
      scratch.c[i * columns + j] = output.accumulate ? to_float(c[i * output.stride + j]) : 0.0f;
  run_chunks(task, scratch, scratch.c, static_cast<size_t>(columns), false);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) c[i * output.stride + j] = to_bf16(scratch.c[i * columns + j]);
}

void run_task(const MatmulTask& task, const MatmulScratch& scratch) {
  const MatmulOutput& output = task.problem->c;
  if (output.dtype == DType::bf16) return run_rounded(task, scratch);
  float* c = reinterpret_cast<float*>(output.data) + task.row_begin * output.stride + task.column_begin;
  if (task.problem->blocks.empty() && !output.accumulate) {
    for (int64_t i = 0; i < task.row_end - task.row_begin; ++i)
      std::fill_n(c + i * output.stride, task.column_end - task.column_begin, 0.0f);
    return;
  }
  run_chunks(task, scratch, c, static_cast<size_t>(output.stride), !output.accumulate);
}

}  // namespace

MatmulKernel kernel_of_target() {
  return {{int64_t{kTileRows}, int64_t{kTileColumns}}, &run_task};
}

}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moray::cpu {
HWY_EXPORT(kernel_of_target);
MatmulKernel matmul_kernel() {
  return HWY_DYNAMIC_DISPATCH(kernel_of_target)();
}
}  // namespace moray::cpu
#endif
