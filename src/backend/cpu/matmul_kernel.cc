#include "backend/cpu/matmul_kernel.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/matmul_kernel.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "backend/cpu/matmul_few_rows-inl.h"
#include "backend/cpu/matmul_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

// One k of `columns` columns of a k-outer operand, cut into strips that lie strip_stride floats apart.
template <class T>
void copy_strips_of(const T* row, int64_t columns, int64_t strip_stride, float* to) {
  const D d;
  for (int64_t column = 0; column < columns; column += int64_t{kTileColumns}, to += strip_stride)
    for (size_t v = 0; v < kTileColumns; v += kLanes) hn::Store(load_floats(d, row + column + v), d, to + v);
}

void copy_strips(const MatmulOperand& operand, int64_t begin, int64_t columns, int64_t k,
                 int64_t strip_stride, float* to) {
  const int64_t at = k * operand.stride + begin;
  with_elements(operand, [&](const auto* data) { copy_strips_of(data + at, columns, strip_stride, to); });
}

// Scales of a task's rows and columns over the blocks of a chunk; of nothing for a problem without.
TileScales chunk_scales(const MatmulTask& task, std::span<const KBlock> blocks) {
  const MatmulProblem& problem = *task.problem;
  if (!problem.scaled()) return {};
  static thread_local std::vector<float> memory;
  const auto rows = static_cast<size_t>(task.row_end - task.row_begin);
  const auto columns = static_cast<size_t>(task.column_end - task.column_begin) + kTileColumns;
  memory.resize(blocks.size() * (rows + columns));
  float* const a = memory.data();
  float* const b = a + blocks.size() * rows;
  float *to_a = a, *to_b = b;
  for (const KBlock& block : blocks) {
    for (int64_t row = task.row_begin; row < task.row_end; ++row) *to_a++ = problem.a_scales.at(row, block);
    for (int64_t j = task.column_begin; j < task.column_end; ++j) *to_b++ = problem.b_scales.at(j, block);
    to_b = std::fill_n(to_b, kTileColumns, 0.0f);  // a register tile loads whole vectors
  }
  return {a, b, rows, columns};
}

// What the register tiles of one k-chunk have in common.
struct Chunk {
  const MatmulTask& task;
  std::span<const KBlock> blocks;
  int64_t k;                            // of all blocks
  std::span<const KBlock> next_blocks;  // of the next chunk
  float* c;                             // the task's first element
  size_t c_stride;
  bool from_zero;
  TileScales scales;  // from the task's first row and column on
};

// Rows [begin, end) of A as one strip.
void pack_a(const MatmulOperand& a, std::span<const KBlock> blocks, int64_t begin, int64_t end,
            float* packed) {
  for (const KBlock& block : blocks) {
    pack_strip(a, begin, end - begin, block, static_cast<size_t>(end - begin), packed);
    packed += (end - begin) * block.length;
  }
}

int64_t columns_from(const Chunk& chunk, int64_t column) {
  return std::min(int64_t{kTileColumns}, chunk.task.column_end - chunk.task.column_begin - column);
}

// Columns [begin, end) of B, at most a tile's, as one strip.
void pack_b(const MatmulOperand& b, std::span<const KBlock> blocks, int64_t begin, int64_t end,
            float* packed) {
  for (const KBlock& block : blocks) {
    for (int64_t column = begin; column < end; column += int64_t{kLanes})
      pack_strip(b, column, std::min(int64_t{kLanes}, end - column), block, kTileColumns,
                 packed + (column - begin));
    packed += block.length * int64_t{kTileColumns};
  }
}

// Steps [first, last) of the k of all blocks, of whole strips of columns that lie side by side in memory:
// read so, many strips' worth of one k after the other.
void copy_steps(const MatmulOperand& b, std::span<const KBlock> blocks, int64_t k, int64_t first,
                int64_t last, int64_t begin, int64_t columns, float* packed) {
  int64_t before = 0;
  for (const KBlock& block : blocks) {
    for (int64_t at = std::max(first, before); at < std::min(last, before + block.length); ++at)
      copy_strips(b, begin, columns, block.begin + at - before, k * int64_t{kTileColumns},
                  packed + at * int64_t{kTileColumns});
    before += block.length;
  }
}

// Columns [begin, end) of B from `whole` strips on, which do not lie side by side or do not fill their strip.
void pack_rest(const MatmulOperand& b, std::span<const KBlock> blocks, int64_t k, int64_t begin, int64_t end,
               int64_t whole, float* packed) {
  for (int64_t column = begin + whole; column < end; column += int64_t{kTileColumns})
    pack_b(b, blocks, column, std::min(column + int64_t{kTileColumns}, end), packed + (column - begin) * k);
}

int64_t whole_strips(const MatmulOperand& b, int64_t columns) {
  return b.k_outer ? columns / int64_t{kTileColumns} * int64_t{kTileColumns} : 0;
}

// All strips of columns [begin, end) of B, strip after strip; k is that of all blocks.
void pack_b_strips(const MatmulOperand& b, std::span<const KBlock> blocks, int64_t k, int64_t begin,
                   int64_t end, float* packed) {
  const int64_t whole = whole_strips(b, end - begin);
  if (whole > 0) copy_steps(b, blocks, k, 0, k, begin, whole, packed);
  pack_rest(b, blocks, k, begin, end, whole, packed);
}

// Rows [begin, end) × the columns of one strip of B, from packed strips.
void run_tile(const Chunk& chunk, int64_t begin, int64_t end, int64_t column, const float* a, const float* b,
              const Wanted& wanted) {
  const auto rows = static_cast<size_t>(end - begin),
             columns = static_cast<size_t>(columns_from(chunk, column));
  const size_t vectors = columns <= kLanes ? 1 : 2;
  const auto blocks = static_cast<int64_t>(chunk.blocks.size());
  const bool short_blocks = blocks > 1 && chunk.k <= kShortBlock * blocks;
  const bool scaled = chunk.scales.a != nullptr;
  const RegisterTileFunction function =
      (short_blocks ? kShortBlockTiles : kRegisterTiles)[scaled][rows - 1][vectors - 1];
  const TileScales scales = scaled ? chunk.scales.from(begin, column) : TileScales();
  float* c = chunk.c + begin * static_cast<int64_t>(chunk.c_stride) + column;
  if (columns == vectors * kLanes)
    function(chunk.blocks, scales, a, b, c, chunk.c_stride, chunk.from_zero, wanted);
  else
    edge_tile(function, rows, columns, chunk.blocks, scales, a, b, c, chunk.c_stride, chunk.from_zero,
              wanted);
}

// Part `part` of `parts` of the vectors [begin, begin + count) of an operand over some k-blocks.
Wanted wanted_part(const MatmulOperand& operand, int64_t begin, int64_t count, std::span<const KBlock> blocks,
                   int64_t part, int64_t parts) {
  if (blocks.empty() || count <= 0) return {};
  const auto bytes = static_cast<int64_t>(dtype_bytes(operand.dtype));
  const int64_t k = blocks.front().begin, k_end = blocks.back().begin + blocks.back().length;
  if (operand.panels) return wanted_panels(operand, begin, count, {k, k_end - k}, part, parts);
  const int64_t runs = operand.k_outer ? k_end - k : count;
  const int64_t first = runs * part / parts, last = runs * (part + 1) / parts;
  const int64_t at =
      operand.k_outer ? (k + first) * operand.stride + begin : (begin + first) * operand.stride + k;
  return Wanted::runs(operand.data + at * bytes, (operand.k_outer ? count : k_end - k) * bytes,
                      operand.stride * bytes, last - first);
}

// The tile of C at `column`: of a weight gradient, C is most of what is read.
Wanted wanted_c(const Chunk& chunk, int64_t begin, int64_t end, int64_t column) {
  if (chunk.from_zero || columns_from(chunk, column) <= 0) return {};
  const auto stride = static_cast<int64_t>(chunk.c_stride);
  return Wanted::runs(chunk.c + begin * stride + column, columns_from(chunk, column) * int64_t{sizeof(float)},
                      stride * int64_t{sizeof(float)}, end - begin);
}

void run_chunk_keeping_a(const Chunk& chunk, const MatmulScratch& scratch) {
  const RowStrips strips(chunk.task.row_end - chunk.task.row_begin, kTileRows);
  for (int64_t strip = 0; strip < strips.count; ++strip)
    pack_a(chunk.task.problem->a, chunk.blocks, chunk.task.row_begin + strips.begin(strip),
           chunk.task.row_begin + strips.begin(strip + 1), scratch.resident + strips.begin(strip) * chunk.k);
  const int64_t columns = chunk.task.column_end - chunk.task.column_begin;
  for (int64_t column = 0; column < columns; column += int64_t{kTileColumns}) {
    const int64_t at = chunk.task.column_begin + column;
    pack_b(chunk.task.problem->b, chunk.blocks, at, at + columns_from(chunk, column), scratch.strip);
    const int64_t next = column + int64_t{kTileColumns};
    for (int64_t strip = 0; strip < strips.count; ++strip)
      run_tile(chunk, strips.begin(strip), strips.begin(strip + 1), column,
               scratch.resident + strips.begin(strip) * chunk.k, scratch.strip,
               wanted_part(chunk.task.problem->b, chunk.task.column_begin + next, columns_from(chunk, next),
                           chunk.blocks, strip, strips.count));
  }
}

// The next chunk of a B whose columns lie side by side, packed beside the multiplications of this one: part
// after part, each asked for while the tile before is computed. Asked for as a whole, its rows, often a power
// of two apart, would drive each other out of L2.
class NextChunk {
 public:
  NextChunk(const Chunk& chunk, int64_t tiles, float* packed)
      : b_(chunk.task.problem->b),
        blocks_(chunk.next_blocks),
        begin_(chunk.task.column_begin),
        whole_(whole_strips(b_, chunk.task.column_end - begin_)),
        parts_(tiles),
        packed_(packed) {
    for (const KBlock& block : blocks_) k_ += block.length;
  }

  // What the tile before part `part` asks for.
  Wanted wanted(int64_t part) const {
    if (k_ == 0 || part >= parts_) return {};
    const int64_t first = k_ * part / parts_, last = k_ * (part + 1) / parts_;
    return wanted_vectors(b_, begin_, whole_, {blocks_.front().begin + first, last - first});
  }
  void pack(int64_t part) const {
    copy_steps(b_, blocks_, k_, k_ * part / parts_, k_ * (part + 1) / parts_, begin_, whole_, packed_);
  }
  void pack_rest(int64_t end) const {
    HWY_NAMESPACE::pack_rest(b_, blocks_, k_, begin_, end, whole_, packed_);
  }

 private:
  const MatmulOperand& b_;
  std::span<const KBlock> blocks_;
  int64_t begin_, whole_, parts_, k_ = 0;
  float* packed_;
};

// `resident` holds this chunk's B; the next one's is left in `next`.
void run_chunk_keeping_b(const Chunk& chunk, float* strip_of_a, const float* resident, float* next) {
  const MatmulTask& task = chunk.task;
  const int64_t columns = task.column_end - task.column_begin;
  const RowStrips strips(task.row_end - task.row_begin, kTileRows);
  const int64_t tiles = strips.count * ((columns + int64_t{kTileColumns} - 1) / int64_t{kTileColumns});
  const NextChunk next_chunk(chunk, tiles, next);
  int64_t tile = 0;
  for (int64_t strip = 0; strip < strips.count; ++strip) {
    const int64_t begin = strips.begin(strip), end = strips.begin(strip + 1);
    pack_a(task.problem->a, chunk.blocks, task.row_begin + begin, task.row_begin + end, strip_of_a);
    for (int64_t column = 0; column < columns; column += int64_t{kTileColumns}, ++tile) {
      run_tile(chunk, begin, end, column, strip_of_a, resident + column * chunk.k,
               chunk.next_blocks.empty() ? wanted_c(chunk, begin, end, column + int64_t{kTileColumns})
                                         : next_chunk.wanted(tile + 1));
      next_chunk.pack(tile);
    }
  }
  next_chunk.pack_rest(task.column_end);
}

void run_packed(const MatmulTask& task, float* c, size_t c_stride, bool from_zero) {
  const RowStrips strips(task.problem->m, kTileRows);
  for (const PackedChunk& packed : task.packed) {
    const Chunk chunk{task, packed.blocks, packed.k,  {},
                      c,    c_stride,      from_zero, chunk_scales(task, packed.blocks)};
    for (int64_t strip = strips.at(task.row_begin); strips.begin(strip) < task.row_end; ++strip)
      for (int64_t column = task.column_begin; column < task.column_end; column += int64_t{kTileColumns})
        run_tile(chunk, strips.begin(strip) - task.row_begin, strips.begin(strip + 1) - task.row_begin,
                 column - task.column_begin, packed.a_strip(strips, strip), packed.b + column * packed.k, {});
    from_zero = false;
  }
}

void run_chunks(const MatmulTask& task, const MatmulScratch& scratch, float* c, size_t c_stride,
                bool from_zero) {
  if (task.order == MatmulOrder::few_rows)
    return (task.problem->b.k_outer ? run_few_rows_k_outer : run_few_rows)(task, scratch, c, c_stride,
                                                                           from_zero);
  if (task.order == MatmulOrder::packed) return run_packed(task, c, c_stride, from_zero);
  float *resident = scratch.resident, *next = scratch.next;
  bool first = true;
  for_chunks(task.problem->blocks, task.k,
             [&](std::span<const KBlock> blocks, int64_t k, std::span<const KBlock> next_blocks) {
               const Chunk chunk{task, blocks,   k,         next_blocks,
                                 c,    c_stride, from_zero, chunk_scales(task, blocks)};
               if (task.order == MatmulOrder::keep_a) {
                 run_chunk_keeping_a(chunk, scratch);
               } else {
                 if (first)
                   pack_b_strips(task.problem->b, blocks, k, task.column_begin, task.column_end, resident);
                 run_chunk_keeping_b(chunk, scratch.strip, resident, next);
                 std::swap(resident, next);
               }
               first = from_zero = false;
             });
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
  run_chunks(task, scratch, c, static_cast<size_t>(output.stride), !output.accumulate && !task.from_sums);
}

// A and B are cut alike, each into `parts`.
void pack_part(const MatmulProblem& problem, const PackedChunk& packed, int64_t part, int64_t parts) {
  if (packed.b == nullptr) {
    const auto blocks = static_cast<int64_t>(packed.blocks.size());
    return pack_few_rows(problem, packed.k, 0, problem.m, static_cast<size_t>(blocks * part / parts),
                         static_cast<size_t>(blocks * (part + 1) / parts), packed.a);
  }
  const RowStrips strips(problem.m, kTileRows);
  for (int64_t strip = strips.count * part / parts; strip < strips.count * (part + 1) / parts; ++strip)
    pack_a(problem.a, packed.blocks, strips.begin(strip), strips.begin(strip + 1),
           packed.a_strip(strips, strip));
  const int64_t columns = (problem.n + int64_t{kTileColumns} - 1) / int64_t{kTileColumns};
  const int64_t begin = columns * part / parts * int64_t{kTileColumns};
  const int64_t end = std::min(columns * (part + 1) / parts * int64_t{kTileColumns}, problem.n);
  if (begin < end) pack_b_strips(problem.b, packed.blocks, packed.k, begin, end, packed.b + begin * packed.k);
}

}  // namespace

MatmulKernel kernel_of_target() {
  return {{int64_t{kTileRows}, int64_t{kTileColumns}}, &run_task, &pack_part};
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
