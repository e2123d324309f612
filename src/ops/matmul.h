// Matrix products in the three directions of a linear layer, dense and grouped by expert.
//
// T tokens (rows), I inputs, O outputs, R expert rows, E experts, G gradient groups.
//
// Every output is accumulated over k in ascending order in blocks of at most 128 that start at multiples of
// 128: part = 0; part = fma(a, b, part) over the block; run += part. Operands are f32 or bf16 (f64 on the
// reference device, both alike), the accumulation f32, the output f32 (bf16: rounded to nearest even once, at
// the end).
#pragma once

#include "ops/rows.h"

namespace moray {

struct MatmulKernels {
  void (*forward)(Exec&, const Tensor& x_TI, const Tensor& w_OI, const Tensor& y_TO) = nullptr;
  void (*backward_input)(Exec&, const Tensor& dy_TO, const Tensor& w_OI, const Tensor& dx_TI,
                         bool accumulate) = nullptr;
  void (*backward_weight)(Exec&, const Tensor& dy_TO, const Tensor& x_TI, const SampleRows&,
                          const Tensor& dw_GOI) = nullptr;
  void (*grouped_forward)(Exec&, const Tensor& x_RI, const Tensor& w_EOI, const ExpertRows&,
                          const Tensor& y_RO) = nullptr;
  void (*grouped_backward_input)(Exec&, const Tensor& dy_RO, const Tensor& w_EOI, const ExpertRows&,
                                 const Tensor& dx_RI, bool accumulate) = nullptr;
  void (*grouped_backward_weight)(Exec&, const Tensor& dy_RO, const Tensor& x_RI, const ExpertRows&,
                                  const Tensor& dw_EOI) = nullptr;
};

// y = x · wᵀ
void matmul_forward(Exec&, const Tensor& x_TI, const Tensor& w_OI, const Tensor& y_TO);

// dx = dy · w, or with `accumulate` dx += dy · w (the running sums start from what dx holds).
void matmul_backward_input(Exec&, const Tensor& dy_TO, const Tensor& w_OI, const Tensor& dx_TI,
                           bool accumulate = false);

// dw[g] += Σ over the rows of the samples of group g of dyᵀ · x; k-blocks restart at each sample.
void matmul_backward_weight(Exec&, const Tensor& dy_TO, const Tensor& x_TI, const SampleRows&,
                            const Tensor& dw_GOI);

// The same three, with the rows of expert e multiplied by w[e]. Experts may have no rows. Weight gradients
// have one accumulator an expert; samples add to it in ascending order.
void grouped_matmul_forward(Exec&, const Tensor& x_RI, const Tensor& w_EOI, const ExpertRows&,
                            const Tensor& y_RO);
void grouped_matmul_backward_input(Exec&, const Tensor& dy_RO, const Tensor& w_EOI, const ExpertRows&,
                                   const Tensor& dx_RI, bool accumulate = false);
void grouped_matmul_backward_weight(Exec&, const Tensor& dy_RO, const Tensor& x_RI, const ExpertRows&,
                                    const Tensor& dw_EOI);

}  // namespace moray
