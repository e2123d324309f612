// The output head fused with the cross-entropy loss: logits exist for one block of rows at a time.
//
// T rows, D hidden, V vocabulary, G gradient groups. Blocks of rows are 128 at absolute multiples of 128 in a
// sample.
//
// A row's log-sum-exp on the cpu device: most = its greatest logit; exp(logit − most) is summed over blocks
// of 128 columns, in each block in 16 virtual lanes (lane j takes columns j, j + 16, ...) joined by halves;
// block sums are added in order. loss = log(sum) + (most − logit of the target); dlogits = exp ·
// (gradient_scale / sum), minus gradient_scale at the target.
#pragma once

#include "ops/rows.h"

namespace moray {

struct CrossEntropyKernels {
  void (*forward)(Exec&, const Tensor& h_TD, const Tensor& w_VD, const Tensor& targets_T,
                  const Tensor& loss_T) = nullptr;
  void (*forward_backward)(Exec&, const Tensor& h_TD, const Tensor& w_VD, const Tensor& targets_T,
                           const SampleRows&, double gradient_scale, const Tensor& loss_T,
                           const Tensor& dh_TD, const Tensor& dw_GVD) = nullptr;
};

// loss[t] = log Σ_v exp(h·w_v) − h·w_target. targets i32; a negative target gives loss 0 and no gradient;
// throws Error naming the position for a target of V or more.
void cross_entropy_forward(Exec&, const Tensor& h_TD, const Tensor& w_VD, const Tensor& targets_T,
                           const Tensor& loss_T);

// Also dh = gradient_scale · ∂(Σ loss)/∂h and dw[g] += gradient_scale · ∂(Σ loss)/∂w, in one pass over the
// logits (order of sums as in matmul.h: dh over v, dw over the rows of each sample).
void cross_entropy_forward_backward(Exec&, const Tensor& h_TD, const Tensor& w_VD, const Tensor& targets_T,
                                    const SampleRows&, double gradient_scale, const Tensor& loss_T,
                                    const Tensor& dh_TD, const Tensor& dw_GVD);

}  // namespace moray
