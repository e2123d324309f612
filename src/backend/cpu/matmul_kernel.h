// The blocked matrix product under every linear layer, dense or grouped, in all three directions.
//
// C[i, j] (+)= Σ_k A(i, k) · B(j, k) over a list of k-blocks in order: each block is a chain of FMAs from 0
// that is then added to the running sum. The list alone fixes the order of arithmetic: vector lanes run over
// j, so neither the instruction set nor the cut into tasks can change a bit. Quantized operands have scales:
// then a block joins by run = fma(round(scale of i · scale of j), part, run).
#pragma once

#include <cstddef>
#include <span>

#include "backend/cpu/matmul_blocking.h"
#include "runtime/exec.h"

namespace moray::cpu {

struct KBlock {
  int64_t begin = 0;
  int64_t length = 0;  // at most kKBlock
  int64_t tile = 0;    // whose scales it has: MatmulScales
};

// An operand as vectors over k: element (i, k) is data[i · stride + k], or with `k_outer` data[k · stride +
// i].
//
// Of a B in `panels` (tensor/panels.h), not k_outer, the stride is the number of columns.
struct MatmulOperand {
  const std::byte* data = nullptr;
  DType dtype = DType::f32;  // f32, bf16 or f8_e4m3
  int64_t stride = 0;        // in elements
  bool k_outer = false;
  bool panels = false;
};

// The scales of a quantized operand: that of vector i over a block is
// table[(first + i) / together · vector_stride + block.tile · tile_stride].
struct MatmulScales {
  const float* table = nullptr;
  int64_t together = 1;  // so many neighbouring vectors share one
  int64_t vector_stride = 0, tile_stride = 0;
  int64_t first = 0;

  float at(int64_t vector, const KBlock& block) const {
    return table[(first + vector) / together * vector_stride + block.tile * tile_stride];
  }
};

struct MatmulOutput {
  std::byte* data = nullptr;
  DType dtype = DType::f32;  // bf16: summed in f32, rounded once at the end
  int64_t stride = 0;
  bool accumulate = false;  // start from what C holds
};

struct MatmulProblem {
  MatmulOperand a, b;
  MatmulOutput c;
  int64_t m = 0, n = 0;
  std::span<const KBlock> blocks;
  MatmulScales a_scales = {}, b_scales = {};  // both or neither

  bool scaled() const { return a_scales.table != nullptr; }
  int64_t k() const {
    int64_t sum = 0;
    for (const KBlock& block : blocks) sum += block.length;
    return sum;
  }
};

// The rows of A in strips of nearly equal height, at most a register tile's, so that 16 rows are 8 + 8 and
// not 14 + 2.
struct RowStrips {
  int64_t rows, count;
  RowStrips(int64_t rows_in_all, int64_t tile_rows)
      : rows(rows_in_all), count((rows_in_all + tile_rows - 1) / tile_rows) {}
  int64_t begin(int64_t strip) const { return strip * rows / count; }
  int64_t at(int64_t row) const { return (row * count + rows - 1) / rows; }  // the strip that begins there
};

constexpr int64_t kVectorPadding = 16;  // floats written beyond the end of a packed strip

// Both operands of a problem over some of its k-blocks, packed once for all its tasks.
struct PackedChunk {
  std::span<const KBlock> blocks;
  int64_t k = 0;       // of all blocks
  float* a = nullptr;  // strip i of RowStrips(m) begins at a_strip
  float* b = nullptr;  // the strip of column j, a multiple of the tile's, begins at b + j · k; null: A alone,
                       // for MatmulOrder::few_rows, of all of the problem's blocks

  // Strips apart from each other, for different threads pack them at a time.
  float* a_strip(const RowStrips& strips, int64_t i) const {
    return a + strips.begin(i) * k + i * kVectorPadding;
  }
};

// Rows [row_begin, row_end) × columns [column_begin, column_end) of a problem's C.
struct MatmulTask {
  const MatmulProblem* problem = nullptr;
  int64_t row_begin = 0, row_end = 0;
  int64_t column_begin = 0, column_end = 0;
  int64_t k = 0;  // at once, MatmulBlocking::k
  MatmulOrder order = MatmulOrder::keep_a;
  // With MatmulOrder::packed: chunks in order; rows begin and end with strips of A. With few_rows: one or
  // none.
  std::span<const PackedChunk> packed = {};
  bool from_sums = false;  // C holds the sums of the problem's earlier blocks
};

// Floats that run() may write: the packed operand that stays for a k-chunk, one packed strip of the other
// (neither for MatmulOrder::packed), and C where the output is bf16.
struct MatmulScratch {
  float* resident = nullptr;
  float* next = nullptr;  // the resident one of the next chunk, with MatmulOrder::keep_b
  float* strip = nullptr;
  float* c = nullptr;
};

// One instruction set's build of the kernel.
struct MatmulKernel {
  RegisterTile tile;
  void (*run)(const MatmulTask&, const MatmulScratch&) = nullptr;
  // Packs part `part` of `parts` of both operands.
  void (*pack)(const MatmulProblem&, const PackedChunk&, int64_t part, int64_t parts) = nullptr;
};

// The build for the processor (or the one forced, register.h).
MatmulKernel matmul_kernel();

// Runs all problems as one list of tasks over the pool, so that uneven problems balance. Problems must write
// different outputs. Reuses each thread's scratch: allocates nothing once that has grown to the largest shape
// seen.
void run_matmuls(Exec& exec, std::span<const MatmulProblem> problems);

// Blocks of at most 128 over [begin, end), restarting at begin, appended to `blocks`; tiles count from 0.
template <class Blocks>
void append_k_blocks(int64_t begin, int64_t end, Blocks& blocks) {
  for (int64_t k = begin; k < end; k += kKBlock)
    blocks.push_back({k, std::min(kKBlock, end - k), (k - begin) / kKBlock});
}

// The first blocks, as many as have at most `most_k` together, but one at least unless there is none.
inline std::span<const KBlock> first_chunk(std::span<const KBlock> blocks, int64_t most_k) {
  size_t count = std::min<size_t>(blocks.size(), 1);
  int64_t k = blocks.empty() ? 0 : blocks[0].length;
  while (count < blocks.size() && k + blocks[count].length <= most_k) k += blocks[count++].length;
  return blocks.first(count);
}

// body(blocks, their k, the next body's blocks) for one such chunk after the other.
template <class Body>
void for_chunks(std::span<const KBlock> rest, int64_t most_k, const Body& body) {
  for (std::span<const KBlock> blocks = first_chunk(rest, most_k), next; !blocks.empty(); blocks = next) {
    rest = rest.subspan(blocks.size());
    next = first_chunk(rest, most_k);
    int64_t k = 0;
    for (const KBlock& block : blocks) k += block.length;
    body(blocks, k, next);
  }
}

}  // namespace moray::cpu
