// The product of few rows with a weight as it lies, row by row: with few rows, packing it in strips costs as
// much as multiplying. Vector lanes run over the rows of A, whose packed form stays in L2; elements of B are
// broadcast.

// Per-target include guard (Highway's convention: included once for every target).
#if defined(MORAY_MATMUL_FEW_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MORAY_MATMUL_FEW_ROWS_INL_H_
#undef MORAY_MATMUL_FEW_ROWS_INL_H_
#else
#define MORAY_MATMUL_FEW_ROWS_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <array>

#include "backend/cpu/matmul_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {
namespace {

// Vectors of rows of A in one tile at most. Its columns of C are as many as a register tile has rows: 14 × 2
// sums, 2 of A and 1 of B out of 32 registers (AVX2: 6 × 2 of 16).
constexpr size_t kFewVectors = 2;
constexpr int64_t kGroupRows = int64_t{kFewVectors * kLanes};
constexpr size_t kMostFewRows = 256;  // MatmulOrder::few_rows is for fewer

// One k-block of some columns of B as f32 rows side by side in L1. Where B lies its rows are often a multiple
// of 4 KiB apart, and then more of them than L1 has ways fall on one set.
struct BlockOfColumns {
  static constexpr size_t kStride = kKBlock + 16;
  HWY_ALIGN float rows[kTileRows * kStride];

  template <class T>
  void copy_rows(const T* from, int64_t stride, int64_t columns, int64_t length) {
    const D d;
    for (int64_t j = 0; j < columns; ++j, from += stride) {
      float* to = rows + static_cast<size_t>(j) * kStride;
      int64_t k = 0;
      for (; k + int64_t{kLanes} <= length; k += int64_t{kLanes})
        hn::Store(load_floats(d, from + k), d, to + k);
      for (; k < length; ++k) to[k] = element(from + k);
    }
  }

  void copy(const MatmulOperand& b, int64_t column, int64_t columns, const KBlock& block) {
    const int64_t at = column * b.stride + block.begin;
    if (b.dtype == DType::bf16) {
      copy_rows(reinterpret_cast<const bf16*>(b.data) + at, b.stride, columns, block.length);
    } else {
      copy_rows(reinterpret_cast<const float*>(b.data) + at, b.stride, columns, block.length);
    }
  }
};

// Where a tile finds its columns of B at each k: in a BlockOfColumns,
struct FromColumns {
  const float* HWY_RESTRICT at_k;
  HWY_INLINE float column(size_t j) const { return at_k[j * BlockOfColumns::kStride]; }
  HWY_INLINE void next() { ++at_k; }
};
// in a k-outer B itself; `copy`, when not null, gets them too, for the groups of rows that follow,
template <bool kCopy>
struct FromStored {
  const float* HWY_RESTRICT at_k;
  int64_t stride;
  size_t count;
  float* HWY_RESTRICT copy;
  HWY_INLINE float column(size_t j) const { return at_k[j]; }
  HWY_INLINE void next() {
    if constexpr (kCopy) {
      hn::Store(load_some(at_k, count), D(), copy);
      copy += kLanes;
    }
    at_k += stride;
  }
};
// or in that copy.
struct FromCopy {
  const float* HWY_RESTRICT at_k;
  HWY_INLINE float column(size_t j) const { return at_k[j]; }
  HWY_INLINE void next() { at_k += kLanes; }
};

// kVectors vectors of rows × kColumns columns over one k-block. a: packed [k][kVectors · kLanes]; run[j ·
// kVectors · kLanes + i]: the running sum of row i and column j. `wanted` is asked for meanwhile, at the last
// `last` steps `wanted_last`.
template <class B, size_t kVectors, size_t kColumns>
void few_rows_tile(int64_t length, const float* HWY_RESTRICT a, B b, float* HWY_RESTRICT run, Wanted wanted,
                   Wanted wanted_last, int64_t last) {
  const D d;
  V sum[kColumns][kVectors];
#pragma GCC unroll 16
  for (size_t j = 0; j < kColumns; ++j)
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) sum[j][v] = hn::Zero(d);
  const auto step = [&]() HWY_ATTR {
    V a_k[kVectors];
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) a_k[v] = hn::Load(d, a + v * kLanes);
#pragma GCC unroll 16
    for (size_t j = 0; j < kColumns; ++j) {
      const V b_jk = hn::Set(d, b.column(j));
#pragma GCC unroll 4
      for (size_t v = 0; v < kVectors; ++v) sum[j][v] = hn::MulAdd(b_jk, a_k[v], sum[j][v]);
    }
    a += kVectors * kLanes;
    b.next();
  };
  int64_t k = 0;
  for (const int64_t asking = std::min(wanted.left, length - last); k < asking; ++k) {
    step();
    wanted.ask();
  }
  for (; k < length - last; ++k) step();
  for (const int64_t asking = k + std::min(wanted_last.left, last); k < asking; ++k) {
    step();
    wanted_last.ask();
  }
  for (; k < length; ++k) step();
#pragma GCC unroll 16
  for (size_t j = 0; j < kColumns; ++j)
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) {
      float* at = run + (j * kVectors + v) * kLanes;
      hn::Store(hn::Add(hn::Load(d, at), sum[j][v]), d, at);
    }
}

template <class B>
using FewRowsTile = void (*)(int64_t, const float*, B, float*, Wanted, Wanted, int64_t);

template <class B, size_t... kColumnsLessOne>
constexpr auto few_rows_tiles(std::index_sequence<kColumnsLessOne...>) {
  return std::array<std::array<FewRowsTile<B>, kFewVectors>, kTileRows>{
      {{few_rows_tile<B, 1, kColumnsLessOne + 1>, few_rows_tile<B, 2, kColumnsLessOne + 1>}...}};
}
template <class B>
constexpr auto kFewRowsTiles = few_rows_tiles<B>(std::make_index_sequence<kTileRows>());

// Vectors in the group of rows that begins at `row` of `rows`.
size_t few_vectors(int64_t rows, int64_t row) {
  return static_cast<size_t>((std::min(kGroupRows, rows - row) + int64_t{kLanes} - 1) / int64_t{kLanes});
}

// Blocks [first, end) of rows [row_begin, row_begin + rows) of A: group after group, each [k][width] over the
// k of all blocks, in whole vectors of rows.
void pack_few_rows(const MatmulProblem& problem, int64_t k, int64_t row_begin, int64_t rows, size_t first,
                   size_t end, float* packed) {
  int64_t k_at = 0;
  for (size_t n = 0; n < end; ++n) {
    const KBlock& block = problem.blocks[n];
    for (int64_t row = 0; n >= first && row < rows; row += int64_t{kLanes}) {
      const int64_t group = row / kGroupRows * kGroupRows;
      const size_t width = few_vectors(rows, group) * kLanes;
      pack_strip(problem.a, row_begin + row, std::min(int64_t{kLanes}, rows - row), block, width,
                 packed + group * k + k_at * static_cast<int64_t>(width) + (row - group));
    }
    k_at += block.length;
  }
}

// A task of order few_rows; `c` is the task's first element.
void run_few_rows(const MatmulTask& task, const MatmulScratch& scratch, float* c, size_t c_stride,
                  bool from_zero) {
  const MatmulProblem& problem = *task.problem;
  const std::span<const KBlock> blocks = problem.blocks;
  const int64_t rows = task.row_end - task.row_begin, columns = task.column_end - task.column_begin;
  const int64_t k = problem.k();
  const float* packed = scratch.resident;
  if (task.packed.empty())
    pack_few_rows(problem, k, task.row_begin, rows, 0, blocks.size(), scratch.resident);
  else
    packed = task.packed.front().a;

  HWY_ALIGN float sums[kTileRows * kMostFewRows];
  BlockOfColumns block_of_b;
  constexpr auto together = int64_t{kTileRows};
  for (int64_t column = 0; column < columns; column += together) {
    const int64_t count = std::min(together, columns - column);
    // Sums of column j and row i of a group at sums[group · count + j · width + i].
    const auto for_sums = [&](const auto& body) {
      for (int64_t group = 0; group < rows; group += kGroupRows) {
        const auto width = static_cast<int64_t>(few_vectors(rows, group) * kLanes);
        for (int64_t i = 0; i < width; ++i)
          for (int64_t j = 0; j < count; ++j) body(group + i, j, sums[group * count + j * width + i]);
      }
    };
    for_sums([&](int64_t i, int64_t j, float& sum) {
      sum = from_zero || i >= rows ? 0.0f : c[i * static_cast<int64_t>(c_stride) + column + j];
    });
    int64_t k_at = 0;
    for (size_t n = 0; n < blocks.size(); ++n) {
      const KBlock& block = blocks[n];
      block_of_b.copy(problem.b, task.column_begin + column, count, block);
      Wanted wanted = n + 1 < blocks.size()
                          ? wanted_vectors(problem.b, task.column_begin + column, count, blocks[n + 1])
                          : wanted_vectors(problem.b, task.column_begin + column + count,
                                           std::min(together, columns - column - count), blocks[0]);
      for (int64_t group = 0; group < rows; group += kGroupRows) {
        const size_t vectors = few_vectors(rows, group), width = vectors * kLanes;
        kFewRowsTiles<FromColumns>[static_cast<size_t>(count - 1)][vectors - 1](
            block.length, packed + group * k + k_at * static_cast<int64_t>(width),
            FromColumns{block_of_b.rows}, sums + group * count, wanted, {}, 0);
        wanted = {};
      }
      k_at += block.length;
    }
    for_sums([&](int64_t i, int64_t j, float sum) {
      if (i < rows) c[i * static_cast<int64_t>(c_stride) + column + j] = sum;
    });
  }
}

// The same of an f32 B whose columns lie side by side at each k, as of a weight in the backward direction:
// one k-block after the other, so that its rows are read along. They are often a multiple of 4 KiB apart and
// a whole block of them would not stay in L2: each is asked for some steps ahead.
void run_few_rows_k_outer(const MatmulTask& task, const MatmulScratch& scratch, float* c, size_t c_stride,
                          bool from_zero) {
  constexpr auto together = int64_t{kTileRows};
  // Steps of 14 to 28 cycles. Measured on a Zen 4, 64 experts' weights from memory: 12 64% of peak, 24 71%,
  // 48 74%, more the same.
  constexpr int64_t kAhead = 48;
  const MatmulProblem& problem = *task.problem;
  const int64_t rows = task.row_end - task.row_begin, columns = task.column_end - task.column_begin;
  const int64_t k = problem.k(),
                padded_rows = (rows + int64_t{kLanes} - 1) / int64_t{kLanes} * int64_t{kLanes};
  const float* packed = scratch.resident;
  if (task.packed.empty())
    pack_few_rows(problem, k, task.row_begin, rows, 0, problem.blocks.size(), scratch.resident);
  else
    packed = task.packed.front().a;
  const float* b = reinterpret_cast<const float*>(problem.b.data) + task.column_begin;

  // Sums of column j and row i of a group at sums[(j · padded rows) + group · columns together + ...].
  const auto for_sums = [&](const auto& body) {
    for (int64_t column = 0; column < columns; column += together) {
      const int64_t count = std::min(together, columns - column);
      for (int64_t group = 0; group < rows; group += kGroupRows) {
        const auto width = static_cast<int64_t>(few_vectors(rows, group) * kLanes);
        float* sums = scratch.strip + column * padded_rows + group * count;
        for (int64_t i = 0; i < width; ++i)
          for (int64_t j = 0; j < count; ++j) body(group + i, column + j, sums[j * width + i]);
      }
    }
  };
  for_sums([&](int64_t i, int64_t j, float& sum) {
    sum = from_zero || i >= rows ? 0.0f : c[i * static_cast<int64_t>(c_stride) + j];
  });
  HWY_ALIGN float copy[kKBlock * kLanes];
  int64_t k_at = 0;
  for (const KBlock& block : problem.blocks) {
    for (int64_t column = 0; column < columns; column += together) {
      const int64_t count = std::min(together, columns - column), ahead = std::min(kAhead, block.length);
      const float* first = b + block.begin * problem.b.stride + column;
      // The line that holds the last of the columns: those before it were asked for with the columns before.
      const auto line = [&](const float* row, int64_t steps) {
        return Wanted::runs(row, 1, problem.b.stride * int64_t{sizeof(float)}, steps);
      };
      const Wanted these = line(first + ahead * problem.b.stride + count - 1, block.length - ahead);
      const Wanted next =
          column + together < columns
              ? line(first + count - 1 + std::min(together, columns - column - together), ahead)
              : Wanted{};
      for (int64_t group = 0; group < rows; group += kGroupRows) {
        const size_t vectors = few_vectors(rows, group), width = vectors * kLanes;
        const float* a = packed + group * k + k_at * static_cast<int64_t>(width);
        float* sums = scratch.strip + column * padded_rows + group * count;
        const auto index = static_cast<size_t>(count - 1);
        const FromStored<true> stored{first, problem.b.stride,
                                      static_cast<size_t>(std::min(count, int64_t{kLanes})), copy};
        if (group > 0)
          kFewRowsTiles<FromCopy>[index][vectors - 1](block.length, a, FromCopy{copy}, sums, {}, {}, 0);
        else if (rows > kGroupRows)
          kFewRowsTiles<FromStored<true>>[index][vectors - 1](block.length, a, stored, sums, these, next,
                                                              ahead);
        else
          kFewRowsTiles<FromStored<false>>[index][vectors - 1](
              block.length, a, FromStored<false>{first, problem.b.stride, 0, nullptr}, sums, these, next,
              ahead);
      }
    }
    k_at += block.length;
  }
  for_sums([&](int64_t i, int64_t j, float sum) {
    if (i < rows) c[i * static_cast<int64_t>(c_stride) + j] = sum;
  });
}

}  // namespace
}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
