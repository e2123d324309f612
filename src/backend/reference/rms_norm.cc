// T rows, D width, G gradient groups.
#include "ops/rms_norm.h"

#include <cmath>
#include <limits>

#include "backend/reference/dispatch.h"
#include "backend/reference/kernels.h"
#include "backend/reference/sums.h"

namespace moray::reference {
namespace {

void forward(Exec&, const Tensor& x_TD, const Tensor& w_D, double eps, const Tensor& y_TD,
             const Tensor& rstd_T) {
  for_sum_type(y_TD, [&]<class T>(T) {
    const int64_t width = x_TD.extent(1);
    Elements<T> x_all(x_TD), y_all(y_TD);
    const T* w = w_D.data<T>();
    for (int64_t t = 0; t < x_TD.extent(0); ++t) {
      const T* x = x_all.data() + t * width;
      T* y = y_all.data() + t * width;
      LaneSum<T> squares;
      for (int64_t d = 0; d < width; ++d) squares.add_product(d, x[d], x[d]);
      const T mean = squares.total() / static_cast<T>(width);
      const T rstd =
          std::isinf(mean) ? std::numeric_limits<T>::quiet_NaN() : 1 / std::sqrt(mean + static_cast<T>(eps));
      for (int64_t d = 0; d < width; ++d) y[d] = x[d] * rstd * w[d];
      rstd_T.data<T>()[t] = rstd;
    }
    y_all.store();
  });
}

void backward_input(Exec&, const Tensor& dy_TD, const Tensor& x_TD, const Tensor& w_D, const Tensor& rstd_T,
                    const Tensor& dx_TD, bool accumulate) {
  for_sum_type(dx_TD, [&]<class T>(T) {
    const int64_t width = x_TD.extent(1);
    Elements<T> dy_all(dy_TD), x_all(x_TD), dx_all(dx_TD);
    const T* w = w_D.data<T>();
    for (int64_t t = 0; t < x_TD.extent(0); ++t) {
      const T* dy = dy_all.data() + t * width;
      const T* x = x_all.data() + t * width;
      T* dx = dx_all.data() + t * width;
      const T rstd = rstd_T.data<T>()[t];
      LaneSum<T> products;
      for (int64_t d = 0; d < width; ++d) products.add_product(d, dy[d] * w[d], x[d]);
      const T pull = rstd * rstd * (products.total() / static_cast<T>(width));
      for (int64_t d = 0; d < width; ++d) {
        const T gradient = rstd * (dy[d] * w[d] - x[d] * pull);
        dx[d] = accumulate ? dx[d] + gradient : gradient;
      }
    }
    dx_all.store();
  });
}

void backward_weight(Exec&, const Tensor& dy_TD, const Tensor& x_TD, const Tensor& rstd_T,
                     const SampleRows& rows, const Tensor& dw_GD) {
  for_real_type(dw_GD, [&]<class T>(T) {
    const int64_t width = x_TD.extent(1);
    Elements<T> dy_all(dy_TD), x_all(x_TD);
    std::vector<T> normed(static_cast<size_t>(rows.rows_per_sample));  // one column of one sample
    for (int64_t s = 0; s < rows.samples; ++s) {
      const int64_t first = s * rows.rows_per_sample;
      const T* dy = dy_all.data() + first * width;
      const T* x = x_all.data() + first * width;
      const T* rstd = rstd_T.data<T>() + first;
      T* dw = dw_GD.data<T>() + rows.group(s) * width;
      for (int64_t d = 0; d < width; ++d) {
        for (int64_t t = 0; t < rows.rows_per_sample; ++t)
          normed[static_cast<size_t>(t)] = x[t * width + d] * rstd[t];
        dw[d] = add_products(dw[d], dy + d, width, normed.data(), 1, rows.rows_per_sample);
      }
    }
  });
}

}  // namespace

RmsNormKernels rms_norm_kernels() {
  return {.forward = forward, .backward_input = backward_input, .backward_weight = backward_weight};
}

}  // namespace moray::reference
