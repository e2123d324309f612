// Moving rows between tokens and experts: dispatch and combine on one machine.
//
// T tokens, K experts a token, R = T·K expert rows, D width.
#pragma once

#include "ops/rows.h"

namespace moray {

// Where everything goes. All i32.
struct DispatchPlan {
  ExpertRows rows;  // sorted by (expert, sample, token)
  Tensor token_R;   // the token that expert row r comes from
  Tensor choice_R;  // t·K + k: which of the T·K choices row r serves
  Tensor row_TK;    // the expert row of choice (t, k): the inverse of choice_R
};

struct PermuteKernels {
  void (*plan)(Exec&, const Tensor& ids_TK, DispatchPlan&) = nullptr;
  void (*gather_rows)(Exec&, const Tensor& x_TD, const Tensor& token_R, const Tensor& x_RD) = nullptr;
  void (*combine_rows)(Exec&, const Tensor& y_RD, const Tensor& gates_TK, const Tensor& ids_TK,
                       const Tensor& row_TK, int64_t experts_per_group, const Tensor& out_TD,
                       bool accumulate) = nullptr;
  void (*gather_values)(Exec&, const Tensor& values, const Tensor& index_R, const Tensor& out_R) = nullptr;
};

// Fills a plan whose tensors are allocated and whose rows.experts and rows.samples are set. ids ascend within
// a token.
void dispatch_plan(Exec&, const Tensor& ids_TK, DispatchPlan&);
// The plan's tensors for T tokens of `samples` samples with K choices each.
DispatchPlan allocate_dispatch_plan(Exec&, int64_t tokens, int64_t choices, int64_t experts, int64_t samples);

// x_RD[r] = x_TD[token_R[r]]: dispatch, and the backward pass of combine.
void gather_rows(Exec&, const Tensor& x_TD, const Tensor& token_R, const Tensor& x_RD);

// out[t] = Σ_k gates[t,k] · y[row[t,k]]: by ascending expert id inside an expert group, rounded to the
// activation's type, then groups in order. gates_TK undefined: all 1 (the backward pass of dispatch).
// experts_per_group = E / n_group. With `accumulate`, the whole sum is added to what `out` holds.
void combine_rows(Exec&, const Tensor& y_RD, const Tensor& gates_TK, const Tensor& ids_TK,
                  const Tensor& row_TK, int64_t experts_per_group, const Tensor& out_TD,
                  bool accumulate = false);

// out[r] = values[index[r]] over flattened values: gates to expert rows and their gradients back.
void gather_values(Exec&, const Tensor& values, const Tensor& index_R, const Tensor& out_R);

}  // namespace moray
