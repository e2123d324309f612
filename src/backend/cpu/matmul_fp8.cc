// The six products of ops/matmul_fp8.h as problems of the one blocked kernel (matmul_kernel.h): E4M3 is
// decoded while operands are packed, scales join with the k-blocks.
//
// T tokens (rows), I inputs, O outputs, R expert rows, E experts, G gradient groups.
#include "ops/matmul_fp8.h"

#include <vector>

#include "backend/cpu/kernels_list.h"
#include "backend/cpu/matmul_problems.h"

namespace moray::cpu {

namespace {

// A quantized matrix whose codes packing can read: E4M3 as it is. The other formats, which no fast path
// needs, are decoded to bf16, which holds all their numbers exactly.
struct Codes {
  const QuantizedTensor& q;
  Tensor values;

  Codes(Exec& exec, const QuantizedTensor& quantized) : q(quantized), values(quantized.codes) {
    if (q.format == CodeFormat::f8_e4m3) return;
    QuantizedTensor unscaled = q;
    unscaled.scales = Tensor::empty(*exec.allocator, q.scales.shape(), DType::f32);
    std::ranges::fill(unscaled.scales.span<float>(), 1.0f);
    values = Tensor::empty(*exec.allocator, q.shape, DType::bf16);
    kernels<QuantizeKernels>(Device::cpu).dequantize(exec, unscaled, values);
  }

  // From row `first_row` on, rows counted through a stack of matrices.
  MatmulOperand operand(int64_t first_row, bool k_outer) const {
    const int64_t columns = q.columns();
    const size_t bytes = static_cast<size_t>(first_row * columns) * dtype_bytes(values.dtype());
    return {values.raw() + bytes, values.dtype(), columns, k_outer};
  }
  const float* scales(int64_t first) const { return q.scales.data<float>() + first; }
};

// Row tiles over k along the row: a scale for each row and k-block.
MatmulScales row_tile_scales(const Codes& rows, int64_t first_row) {
  const int64_t tiles = rows.q.column_tiles();
  return {rows.scales(first_row * tiles), 1, tiles, 1};
}

// A weight's blocks; `k_outer`: k runs over its rows and not along them.
MatmulScales block_scales(const Codes& weight, int64_t matrix, bool k_outer) {
  const int64_t tiles = weight.q.column_tiles();
  const float* table = weight.scales(matrix * weight.q.row_tiles() * tiles);
  return k_outer ? MatmulScales{table, kTile, 1, tiles} : MatmulScales{table, kTile, tiles, 1};
}

// Token tiles: a scale for each column and row block.
MatmulScales token_tile_scales(const Codes& rows) {
  return {rows.scales(0), 1, 1, rows.q.columns()};
}

struct Problems {
  std::vector<KBlock> blocks;
  std::vector<MatmulProblem> list;

  static Problems& cleared() {
    static thread_local Problems problems;
    problems.blocks.clear();
    problems.list.clear();
    return problems;
  }
};

// y = x · wᵀ for the rows [begin, end) and matrix `expert` of the stack w.
MatmulProblem forward_rows(const Codes& x, const Codes& w, int64_t expert, int64_t begin, int64_t end,
                           const Tensor& y_TO, std::span<const KBlock> blocks) {
  const int64_t outputs = w.q.rows_per_matrix();
  return {x.operand(begin, false),
          w.operand(expert * outputs, false),
          matmul_output(y_TO.rows(begin, end), false),
          end - begin,
          outputs,
          blocks,
          row_tile_scales(x, begin),
          block_scales(w, expert, false)};
}

// dx (+)= dy · w, likewise.
MatmulProblem backward_input_rows(const Codes& dy, const Codes& w, int64_t expert, int64_t begin, int64_t end,
                                  const Tensor& dx_TI, bool accumulate, std::span<const KBlock> blocks) {
  return {dy.operand(begin, false),
          w.operand(expert * w.q.rows_per_matrix(), true),
          matmul_output(dx_TI.rows(begin, end), accumulate),
          end - begin,
          w.q.columns(),
          blocks,
          row_tile_scales(dy, begin),
          block_scales(w, expert, true)};
}

// dw += dyᵀ · x over some row blocks.
MatmulProblem weight_problem(const Codes& dy, const Codes& x, const Tensor& dw_OI,
                             std::span<const KBlock> blocks) {
  return {dy.operand(0, true),   x.operand(0, true),  matmul_output(dw_OI, true),
          dy.q.columns(),        x.q.columns(),       blocks,
          token_tile_scales(dy), token_tile_scales(x)};
}

void forward(Exec& exec, const QuantizedTensor& x_TI, const QuantizedTensor& w_OI, const Tensor& y_TO) {
  const Codes x(exec, x_TI), w(exec, w_OI);
  Problems& problems = Problems::cleared();
  append_k_blocks(0, x_TI.columns(), problems.blocks);
  problems.list.push_back(forward_rows(x, w, 0, 0, x_TI.shape[0], y_TO, problems.blocks));
  run_matmuls(exec, problems.list);
}

void backward_input(Exec& exec, const QuantizedTensor& dy_TO, const QuantizedTensor& w_OI,
                    const Tensor& dx_TI, bool accumulate) {
  const Codes dy(exec, dy_TO), w(exec, w_OI);
  Problems& problems = Problems::cleared();
  append_k_blocks(0, dy_TO.columns(), problems.blocks);
  problems.list.push_back(
      backward_input_rows(dy, w, 0, 0, dy_TO.shape[0], dx_TI, accumulate, problems.blocks));
  run_matmuls(exec, problems.list);
}

void backward_weight(Exec& exec, const QuantizedTensor& dy_TO, const QuantizedTensor& x_TI,
                     const SampleRows& rows, const Tensor& dw_GOI) {
  const Codes dy(exec, dy_TO), x(exec, x_TI);
  Problems& problems = Problems::cleared();
  problems.blocks.reserve(static_cast<size_t>(x_TI.row_blocks.extent(0)));  // the problems point into it
  for (int64_t group = 0; group < rows.gradient_groups; ++group) {
    const size_t first = problems.blocks.size();
    int64_t tile = 0;
    for_row_blocks(rows, [&](int64_t begin, int64_t end) {
      if (rows.group(begin / rows.rows_per_sample) == group)
        problems.blocks.push_back({begin, end - begin, tile});
      ++tile;
    });
    const std::span<const KBlock> blocks(problems.blocks.data() + first, problems.blocks.size() - first);
    if (!blocks.empty()) problems.list.push_back(weight_problem(dy, x, dw_GOI.row(group), blocks));
  }
  run_matmuls(exec, problems.list);
}

void grouped_forward(Exec& exec, const QuantizedTensor& x_RI, const QuantizedTensor& w_EOI,
                     const ExpertRows& rows, const Tensor& y_RO) {
  const Codes x(exec, x_RI), w(exec, w_EOI);
  Problems& problems = Problems::cleared();
  append_k_blocks(0, x_RI.columns(), problems.blocks);
  for (int64_t expert = 0; expert < rows.experts; ++expert)
    if (rows.begin(expert) < rows.end(expert))
      problems.list.push_back(
          forward_rows(x, w, expert, rows.begin(expert), rows.end(expert), y_RO, problems.blocks));
  run_matmuls(exec, problems.list);
}

void grouped_backward_input(Exec& exec, const QuantizedTensor& dy_RO, const QuantizedTensor& w_EOI,
                            const ExpertRows& rows, const Tensor& dx_RI, bool accumulate) {
  const Codes dy(exec, dy_RO), w(exec, w_EOI);
  Problems& problems = Problems::cleared();
  append_k_blocks(0, dy_RO.columns(), problems.blocks);
  for (int64_t expert = 0; expert < rows.experts; ++expert)
    if (rows.begin(expert) < rows.end(expert))
      problems.list.push_back(backward_input_rows(dy, w, expert, rows.begin(expert), rows.end(expert), dx_RI,
                                                  accumulate, problems.blocks));
  run_matmuls(exec, problems.list);
}

void grouped_backward_weight(Exec& exec, const QuantizedTensor& dy_RO, const QuantizedTensor& x_RI,
                             const ExpertRows& rows, const Tensor& dw_EOI) {
  const Codes dy(exec, dy_RO), x(exec, x_RI);
  Problems& problems = Problems::cleared();
  for_row_blocks(rows, [&](int64_t begin, int64_t end) {
    problems.blocks.push_back({begin, end - begin, static_cast<int64_t>(problems.blocks.size())});
  });
  const KBlock* next = problems.blocks.data();
  const KBlock* const last = next + problems.blocks.size();
  for (int64_t expert = 0; expert < rows.experts; ++expert) {
    const KBlock* const first = next;
    while (next != last && next->begin < rows.end(expert)) ++next;
    if (first != next) problems.list.push_back(weight_problem(dy, x, dw_EOI.row(expert), {first, next}));
  }
  run_matmuls(exec, problems.list);
}

}  // namespace

void register_matmul_fp8() {
  kernels<MatmulFp8Kernels>(Device::cpu) = {forward,         backward_input,         backward_weight,
                                            grouped_forward, grouped_backward_input, grouped_backward_weight};
}

}  // namespace moray::cpu
