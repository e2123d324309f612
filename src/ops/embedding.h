// The embedding table: rows by token id.
//
// T tokens, V vocabulary, D hidden, G gradient groups.
#pragma once

#include "ops/rows.h"

namespace moray {

struct EmbeddingKernels {
  void (*forward)(Exec&, const Tensor& ids_T, const Tensor& w_VD, const Tensor& x_TD) = nullptr;
  void (*backward_weight)(Exec&, const Tensor& dx_TD, const Tensor& ids_T, const SampleRows&,
                          const Tensor& dw_GVD) = nullptr;
};

// x[t] = w[ids[t]]; throws Error naming the position for an id outside [0, V).
void embedding_forward(Exec&, const Tensor& ids_T, const Tensor& w_VD, const Tensor& x_TD);

// dw[g][ids[t]] += dx[t]: inside a block of 128 rows of a sample the rows of one id are summed first, in
// order.
void embedding_backward_weight(Exec&, const Tensor& dx_TD, const Tensor& ids_T, const SampleRows&,
                               const Tensor& dw_GVD);

}  // namespace moray
