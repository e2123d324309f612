// The six products of ops/matmul.h as problems of the one blocked kernel (matmul_kernel.h).
//
// T tokens (rows), I inputs, O outputs, R expert rows, E experts, G gradient groups.
#include "ops/matmul.h"

#include <vector>

#include "backend/cpu/kernels_list.h"
#include "backend/cpu/matmul_problems.h"

namespace moray::cpu {

namespace {

// The problems of one call, in memory that is reused by the next.
struct Problems {
  std::vector<KBlock> blocks;
  std::vector<size_t> first_block;  // of each gradient group, and the end
  std::vector<MatmulProblem> list;

  static Problems& cleared() {
    static thread_local Problems problems;
    problems.blocks.clear();
    problems.first_block.clear();
    problems.list.clear();
    return problems;
  }
};

void forward(Exec& exec, const Tensor& x_TI, const Tensor& w_OI, const Tensor& y_TO) {
  Problems& problems = Problems::cleared();
  append_k_blocks(0, x_TI.extent(1), problems.blocks);
  problems.list.push_back(forward_problem(x_TI, w_OI, y_TO, problems.blocks));
  run_matmuls(exec, problems.list);
}

void backward_input(Exec& exec, const Tensor& dy_TO, const Tensor& w_OI, const Tensor& dx_TI,
                    bool accumulate) {
  Problems& problems = Problems::cleared();
  append_k_blocks(0, dy_TO.extent(1), problems.blocks);
  problems.list.push_back(backward_input_problem(dy_TO, w_OI, dx_TI, accumulate, problems.blocks));
  run_matmuls(exec, problems.list);
}

void backward_weight(Exec& exec, const Tensor& dy_TO, const Tensor& x_TI, const SampleRows& rows,
                     const Tensor& dw_GOI) {
  Problems& problems = Problems::cleared();
  std::vector<size_t>& first_block = problems.first_block;
  for (int64_t group = 0; group < rows.gradient_groups; ++group) {
    first_block.push_back(problems.blocks.size());
    for (int64_t sample = 0; sample < rows.samples; ++sample)
      if (rows.group(sample) == group)
        append_k_blocks(sample * rows.rows_per_sample, (sample + 1) * rows.rows_per_sample, problems.blocks);
  }
  first_block.push_back(problems.blocks.size());
  for (size_t group = 0; group + 1 < first_block.size(); ++group) {
    const std::span<const KBlock> blocks(problems.blocks.data() + first_block[group],
                                         first_block[group + 1] - first_block[group]);
    if (!blocks.empty())
      problems.list.push_back(
          backward_weight_problem(dy_TO, x_TI, dw_GOI.row(static_cast<int64_t>(group)), blocks));
  }
  run_matmuls(exec, problems.list);
}

void grouped_forward(Exec& exec, const Tensor& x_RI, const Tensor& w_EOI, const ExpertRows& rows,
                     const Tensor& y_RO) {
  Problems& problems = Problems::cleared();
  append_k_blocks(0, x_RI.extent(1), problems.blocks);
  for (int64_t expert = 0; expert < rows.experts; ++expert) {
    const int64_t begin = rows.begin(expert), end = rows.end(expert);
    if (begin < end)
      problems.list.push_back(
          forward_problem(x_RI.rows(begin, end), w_EOI.row(expert), y_RO.rows(begin, end), problems.blocks));
  }
  run_matmuls(exec, problems.list);
}

void grouped_backward_input(Exec& exec, const Tensor& dy_RO, const Tensor& w_EOI, const ExpertRows& rows,
                            const Tensor& dx_RI, bool accumulate) {
  Problems& problems = Problems::cleared();
  append_k_blocks(0, dy_RO.extent(1), problems.blocks);
  for (int64_t expert = 0; expert < rows.experts; ++expert) {
    const int64_t begin = rows.begin(expert), end = rows.end(expert);
    if (begin < end)
      problems.list.push_back(backward_input_problem(dy_RO.rows(begin, end), w_EOI.row(expert),
                                                     dx_RI.rows(begin, end), accumulate, problems.blocks));
  }
  run_matmuls(exec, problems.list);
}

void grouped_backward_weight(Exec& exec, const Tensor& dy_RO, const Tensor& x_RI, const ExpertRows& rows,
                             const Tensor& dw_EOI) {
  Problems& problems = Problems::cleared();
  for (int64_t expert = 0; expert < rows.experts; ++expert)
    for (int64_t sample = 0; sample < rows.samples; ++sample)
      append_k_blocks(rows.begin(expert, sample), rows.begin(expert, sample + 1), problems.blocks);

  const KBlock* next = problems.blocks.data();
  const KBlock* const last = next + problems.blocks.size();
  for (int64_t expert = 0; expert < rows.experts; ++expert) {
    const KBlock* const first = next;
    while (next != last && next->begin < rows.end(expert)) ++next;
    if (first != next)
      problems.list.push_back(backward_weight_problem(dy_RO, x_RI, dw_EOI.row(expert), {first, next}));
  }
  run_matmuls(exec, problems.list);
}

}  // namespace

void register_matmul() {
  kernels<MatmulKernels>(Device::cpu) = {forward,         backward_input,         backward_weight,
                                         grouped_forward, grouped_backward_input, grouped_backward_weight};
}

}  // namespace moray::cpu
