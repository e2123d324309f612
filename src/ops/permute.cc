#include "ops/permute.h"

#include "ops/checks.h"

namespace moray {

namespace {
const PermuteKernels& slot(const Exec& exec) {
  return kernels<PermuteKernels>(exec.device);
}
}  // namespace

DispatchPlan allocate_dispatch_plan(Exec& exec, int64_t tokens, int64_t choices, int64_t experts,
                                    int64_t samples) {
  if (tokens * choices > INT32_MAX)
    fail("a micro-batch of {} tokens with {} experts each exceeds 2^31 rows; lower train.micro_batch", tokens,
         choices);
  DispatchPlan plan;
  plan.rows = {exec.empty_i32({experts * samples + 1}), experts, samples};
  plan.token_R = exec.empty_i32({tokens * choices});
  plan.choice_R = exec.empty_i32({tokens * choices});
  plan.row_TK = exec.empty_i32({tokens, choices});
  return plan;
}

void dispatch_plan(Exec& exec, const Tensor& ids_TK, DispatchPlan& plan) {
  expect_shape("dispatch_plan", "row", plan.row_TK, ids_TK.shape());
  expect_shape("dispatch_plan", "offsets", plan.rows.offsets_ES, {plan.rows.experts * plan.rows.samples + 1});
  expect_shape("dispatch_plan", "token", plan.token_R, {ids_TK.elements()});
  expect_shape("dispatch_plan", "choice", plan.choice_R, {ids_TK.elements()});
  MORAY_CHECK(ids_TK.extent(0) % plan.rows.samples == 0);
  launch(exec, "dispatch_plan", 0, slot(exec).plan, ids_TK, plan);
}

void gather_rows(Exec& exec, const Tensor& x_TD, const Tensor& token_R, const Tensor& x_RD) {
  expect_shape("gather_rows", "x_RD", x_RD, {token_R.extent(0), x_TD.extent(1)});
  launch(exec, "gather_rows", 0, slot(exec).gather_rows, x_TD, token_R, x_RD);
}

void combine_rows(Exec& exec, const Tensor& y_RD, const Tensor& gates_TK, const Tensor& ids_TK,
                  const Tensor& row_TK, int64_t experts_per_group, const Tensor& out_TD, bool accumulate) {
  if (gates_TK.defined()) expect_shape("combine_rows", "gates", gates_TK, ids_TK.shape());
  expect_shape("combine_rows", "row", row_TK, ids_TK.shape());
  expect_shape("combine_rows", "y", y_RD, {ids_TK.elements(), out_TD.extent(1)});
  expect_shape("combine_rows", "out", out_TD, {ids_TK.extent(0), y_RD.extent(1)});
  launch(exec, "combine_rows", 0, slot(exec).combine_rows, y_RD, gates_TK, ids_TK, row_TK, experts_per_group,
         out_TD, accumulate);
}

void gather_values(Exec& exec, const Tensor& values, const Tensor& index_R, const Tensor& out_R) {
  MORAY_CHECK(out_R.elements() == index_R.elements());
  launch(exec, "gather_values", 0, slot(exec).gather_values, values, index_R, out_R);
}

}  // namespace moray
