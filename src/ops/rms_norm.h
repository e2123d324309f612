// RMSNorm: y = x · rstd · w, rstd = 1 / sqrt(mean(x²) + eps), over the last axis.
//
// T rows, D width, G gradient groups. Sums over the width: 16 virtual lanes (lane j takes elements j, j+16,
// ... in order, by fma), then lanes joined by halves (8, 4, 2, 1). Sums over rows (the weight's gradient): as
// matmul's.
//
// A row whose squares overflow gets rstd = NaN: 1 / infinity would make it 0, and nobody would learn of it.
#pragma once

#include "ops/rows.h"

namespace moray {

struct RmsNormKernels {
  void (*forward)(Exec&, const Tensor& x_TD, const Tensor& w_D, double eps, const Tensor& y_TD,
                  const Tensor& rstd_T) = nullptr;
  void (*backward_input)(Exec&, const Tensor& dy_TD, const Tensor& x_TD, const Tensor& w_D,
                         const Tensor& rstd_T, const Tensor& dx_TD, bool accumulate) = nullptr;
  void (*backward_weight)(Exec&, const Tensor& dy_TD, const Tensor& x_TD, const Tensor& rstd_T,
                          const SampleRows&, const Tensor& dw_GD) = nullptr;
};

void rms_norm_forward(Exec&, const Tensor& x_TD, const Tensor& w_D, double eps, const Tensor& y_TD,
                      const Tensor& rstd_T);

// dx = rstd · (dy·w − x·rstd²·mean(dy·w·x)); with `accumulate`, dx += that.
void rms_norm_backward_input(Exec&, const Tensor& dy_TD, const Tensor& x_TD, const Tensor& w_D,
                             const Tensor& rstd_T, const Tensor& dx_TD, bool accumulate = false);

// dw[g] += Σ_t dy · x · rstd
void rms_norm_backward_weight(Exec&, const Tensor& dy_TD, const Tensor& x_TD, const Tensor& rstd_T,
                              const SampleRows&, const Tensor& dw_GD);

}  // namespace moray
