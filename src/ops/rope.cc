#include "ops/rope.h"

#include "ops/checks.h"

namespace moray {

void rope_apply(Exec& exec, const Tensor& x_TW, const RopeLayout& layout, const Tensor& cos_PJ,
                const Tensor& sin_PJ, int64_t rows_per_sample, bool inverse) {
  expect_shape("rope_apply", "x", x_TW, {x_TW.extent(0), layout.heads * layout.head_width});
  expect_shape("rope_apply", "sin", sin_PJ, cos_PJ.shape());
  MORAY_CHECK(2 * cos_PJ.extent(1) <= layout.head_width && rows_per_sample <= cos_PJ.extent(0),
              "[rope_apply] tables {} for heads of {} and samples of {} rows", cos_PJ.shape().to_string(),
              layout.head_width, rows_per_sample);
  launch(exec, "rope_apply", 0, kernels<RopeKernels>(exec.device).apply, x_TW, layout, cos_PJ, sin_PJ,
         rows_per_sample, inverse);
}

}  // namespace moray
