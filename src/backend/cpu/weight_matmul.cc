// T rows, I inputs, O outputs.
#include "ops/weight_matmul.h"

#include <vector>

#include "backend/cpu/kernels_list.h"
#include "backend/cpu/matmul_problems.h"
#include "backend/cpu/weight_integers.h"
#include "tensor/panels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/weight_matmul.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h, as Highway wants it.
#include "backend/cpu/weight_panels-inl.h"
#include "backend/cpu/weight_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {

template <class Element>
void task_of(const RowsTask& task) {
  if (task.weight->values_OI.layout() == TensorLayout::panels) return panels_task_of<Element>(task);
  rows_task_of<Element>(task);
}

void run_rows_task(const RowsTask& task) {
  switch (task.weight->values_OI.dtype()) {
    case DType::bf16:
      return task_of<bf16>(task);
    case DType::f8_e4m3:
      return task_of<e4m3>(task);
    default:
      return task_of<float>(task);
  }
}

}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moray::cpu {
namespace {

HWY_EXPORT(run_rows_task);

// x with rows that may be read up to a multiple of 4 elements.
Tensor readable(Exec& exec, const Tensor& x_TI) {
  const int64_t rows = x_TI.extent(0), inputs = x_TI.extent(1), padded = (inputs + 3) / 4 * 4;
  if (inputs == padded) return x_TI;
  const Tensor copy = exec.zeros({rows, padded});
  for (int64_t t = 0; t < rows; ++t)
    std::copy_n(x_TI.data<float>() + t * inputs, inputs, copy.data<float>() + t * padded);
  return copy;
}

// A product of many rows. Activations have the scale 1.
MatmulProblem blocked_problem(const WeightProduct& p, std::span<const KBlock> blocks) {
  static constexpr float kOne = 1;
  const StoredWeight& w = p.w_OI;
  const bool panels = w.values_OI.layout() == TensorLayout::panels;
  MatmulProblem problem{matmul_operand(p.x_TI, false),
                        {w.values_OI.raw(), w.values_OI.dtype(), w.inputs(), false, panels},
                        matmul_output(p.y_TO, false),
                        p.x_TI.extent(0),
                        w.outputs(),
                        blocks};
  if (w.values_OI.dtype() == DType::f8_e4m3) {
    problem.a_scales = {&kOne};
    problem.b_scales = {w.scales.data<float>(), kTile, w.scales.extent(1), 1, w.first_row};
  }
  return problem;
}

// The blocked products of many rows.
void run_blocked(Exec& exec, std::span<const WeightProduct> products) {
  static thread_local std::vector<std::vector<KBlock>> blocks;  // of each product
  static thread_local std::vector<MatmulProblem> problems;
  blocks.resize(std::max(blocks.size(), products.size()));
  problems.clear();
  for (size_t i = 0; i < products.size(); ++i) {
    const WeightProduct& p = products[i];
    if (p.x_TI.extent(0) <= kMostRowsDirect || p.w_OI.is_integer()) continue;
    blocks[i].clear();
    append_k_blocks(0, p.w_OI.inputs(), blocks[i]);
    problems.push_back(blocked_problem(p, blocks[i]));
  }
  if (!problems.empty()) run_matmuls(exec, problems);
}

// Fewer of a small weight in panels, such as a router's, so that all threads read of it.
int64_t task_outputs(const StoredWeight& w, int threads) {
  if (w.values_OI.layout() == TensorLayout::rows) return kTaskOutputs;
  return std::clamp(w.outputs() / (2 * threads) / kPanelRows * kPanelRows, kPanelRows, kTaskOutputs);
}

void forward(Exec& exec, std::span<const WeightProduct> products) {
  static thread_local std::vector<RowsTask> tasks;
  tasks.clear();
  std::vector<Tensor> copies;
  for (const WeightProduct& p : products) {
    const int64_t rows = p.x_TI.extent(0);
    if (rows == 0 || rows > kMostRowsDirect || p.w_OI.is_integer()) continue;
    const Tensor x = readable(exec, p.x_TI);
    copies.push_back(x);
    const int64_t outputs = p.w_OI.outputs(), together = task_outputs(p.w_OI, exec.pool->threads());
    for (int64_t o = 0; o < outputs; o += together)
      tasks.push_back({&p.w_OI, x.data<float>(), x.extent(1), rows, p.y_TO.data<float>(), o,
                       std::min(together, outputs - o)});
  }
  const std::vector<RowsTask>& list = tasks;  // the caller's, not each worker's thread-local
  exec.pool->for_stretches(static_cast<int64_t>(list.size()), [&](int64_t index, int) {
    HWY_DYNAMIC_DISPATCH(run_rows_task)(list[static_cast<size_t>(index)]);
  });
  run_blocked(exec, products);
  run_integer_products(exec, products);
}

}  // namespace

void register_weight_matmul() {
  kernels<WeightMatmulKernels>(Device::cpu) = {forward};
}

}  // namespace moray::cpu
#endif  // HWY_ONCE
