#include "ops/embedding.h"

#include "ops/checks.h"

namespace moray {

void embedding_forward(Exec& exec, const Tensor& ids_T, const Tensor& w_VD, const Tensor& x_TD) {
  expect_shape("embedding_forward", "x", x_TD, {ids_T.extent(0), w_VD.extent(1)});
  const std::span<const int32_t> ids = ids_T.span<int32_t>();
  for (size_t t = 0; t < ids.size(); ++t)
    if (ids[t] < 0 || ids[t] >= w_VD.extent(0))
      fail("token {} at position {} is beyond the vocabulary of {}", ids[t], t, w_VD.extent(0));
  launch(exec, "embedding_forward", 0, kernels<EmbeddingKernels>(exec.device).forward, ids_T, w_VD, x_TD);
}

void embedding_backward_weight(Exec& exec, const Tensor& dx_TD, const Tensor& ids_T, const SampleRows& rows,
                               const Tensor& dw_GVD) {
  expect_rows("embedding_backward_weight", rows, dx_TD.extent(0));
  expect_shape("embedding_backward_weight", "ids", ids_T, {dx_TD.extent(0)});
  expect_shape("embedding_backward_weight", "dw", dw_GVD,
               {rows.gradient_groups, dw_GVD.extent(1), dx_TD.extent(1)});
  launch(exec, "embedding_backward_weight", 0, kernels<EmbeddingKernels>(exec.device).backward_weight, dx_TD,
         ids_T, rows, dw_GVD);
}

}  // namespace moray
