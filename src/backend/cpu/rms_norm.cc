// T rows, D width, G gradient groups.
#include "ops/rms_norm.h"

#include "backend/cpu/dispatch.h"
#include "backend/cpu/element_type.h"
#include "backend/cpu/kernels_list.h"
#include "backend/cpu/pieces.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/rms_norm.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h, as Highway wants it.
#include "backend/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {
namespace {

// 1 / sqrt(mean + eps) with the processor's correctly rounded root and division.
float reciprocal_root(float mean, float eps) {
  const hn::CappedTag<float, 1> d;
  return hn::GetLane(hn::Div(hn::Set(d, 1.0f), hn::Sqrt(hn::Set(d, mean + eps))));
}

template <class T>
void forward_rows(Exec& exec, const Tensor& x_TD, const Tensor& w_D, double eps, const Tensor& y_TD,
                  const Tensor& rstd_T) {
  const int64_t width = x_TD.extent(1);
  const T* x_all = x_TD.data<T>();
  T* y_all = y_TD.data<T>();
  const float* w = w_D.data<float>();
  float* rstd = rstd_T.data<float>();
  exec.pool->for_ranges(x_TD.extent(0), rows_per_piece(width), [&](int64_t begin, int64_t end, int) HWY_ATTR {
    for (int64_t t = begin; t < end; ++t) {
      const T* x = x_all + t * width;
      T* y = y_all + t * width;
      const float squares = sum_in_lanes(width, [&](int64_t i, auto lanes, FloatVec& sum) HWY_ATTR {
        const FloatVec v = lanes.load(x + i);
        sum = hn::MulAdd(v, v, sum);
      });
      rstd[t] = reciprocal_root(squares / static_cast<float>(width), static_cast<float>(eps));
      const FloatVec scale = splat(rstd[t]);
      for_vectors(width, [&](int64_t i, auto lanes) HWY_ATTR {
        lanes.store(hn::Mul(hn::Mul(lanes.load(x + i), scale), lanes.load(w + i)), y + i);
      });
    }
  });
}

void forward(Exec& exec, const Tensor& x_TD, const Tensor& w_D, double eps, const Tensor& y_TD,
             const Tensor& rstd_T) {
  for_element_type(y_TD, [&]<class T>(T) { forward_rows<T>(exec, x_TD, w_D, eps, y_TD, rstd_T); });
}

template <class T, bool kAccumulate>
void backward_input_rows(Exec& exec, const Tensor& dy_TD, const Tensor& x_TD, const Tensor& w_D,
                         const Tensor& rstd_T, const Tensor& dx_TD) {
  const int64_t width = x_TD.extent(1);
  const T *dy_all = dy_TD.data<T>(), *x_all = x_TD.data<T>();
  const float *w = w_D.data<float>(), *rstd = rstd_T.data<float>();
  T* dx_all = dx_TD.data<T>();
  exec.pool->for_ranges(x_TD.extent(0), rows_per_piece(width), [&](int64_t begin, int64_t end, int) HWY_ATTR {
    for (int64_t t = begin; t < end; ++t) {
      const T *dy = dy_all + t * width, *x = x_all + t * width;
      T* dx = dx_all + t * width;
      const float dot = sum_in_lanes(width, [&](int64_t i, auto lanes, FloatVec& sum) HWY_ATTR {
        sum = hn::MulAdd(hn::Mul(lanes.load(dy + i), lanes.load(w + i)), lanes.load(x + i), sum);
      });
      const FloatVec scale = splat(rstd[t]);
      const FloatVec along_x = splat(rstd[t] * rstd[t] * (dot / static_cast<float>(width)));
      for_vectors(width, [&](int64_t i, auto lanes) HWY_ATTR {
        const FloatVec direct = hn::Mul(lanes.load(dy + i), lanes.load(w + i));
        FloatVec result = hn::Mul(scale, hn::NegMulAdd(lanes.load(x + i), along_x, direct));
        if constexpr (kAccumulate) result = hn::Add(lanes.load(dx + i), result);
        lanes.store(result, dx + i);
      });
    }
  });
}

void backward_input(Exec& exec, const Tensor& dy_TD, const Tensor& x_TD, const Tensor& w_D,
                    const Tensor& rstd_T, const Tensor& dx_TD, bool accumulate) {
  for_element_type(dx_TD, [&]<class T>(T) {
    if (accumulate)
      backward_input_rows<T, true>(exec, dy_TD, x_TD, w_D, rstd_T, dx_TD);
    else
      backward_input_rows<T, false>(exec, dy_TD, x_TD, w_D, rstd_T, dx_TD);
  });
}

// Threads share the columns; every column walks its rows in the canonical order.
template <class T>
void backward_weight_columns(Exec& exec, const Tensor& dy_TD, const Tensor& x_TD, const Tensor& rstd_T,
                             const SampleRows& rows, const Tensor& dw_GD) {
  const int64_t width = x_TD.extent(1);
  const T *dy = dy_TD.data<T>(), *x = x_TD.data<T>();
  const float* rstd = rstd_T.data<float>();
  float* dw_all = dw_GD.data<float>();
  const auto add_block = [&](int64_t begin, int64_t end, int64_t column, int64_t columns,
                             float* dw) HWY_ATTR {
    for_vectors(columns, [&](int64_t i, auto lanes) HWY_ATTR {
      FloatVec part = hn::Zero(FloatTag());
      for (int64_t t = begin; t < end; ++t) {
        const int64_t at = t * width + column + i;
        part = hn::MulAdd(lanes.load(dy + at), hn::Mul(lanes.load(x + at), splat(rstd[t])), part);
      }
      lanes.store(hn::Add(lanes.load(dw + column + i), part), dw + column + i);
    });
  };
  const auto add_columns = [&](int64_t column, int64_t column_end, int) HWY_ATTR {
    for (int64_t sample = 0; sample < rows.samples; ++sample) {
      float* dw = dw_all + rows.group(sample) * width;
      const int64_t sample_end = (sample + 1) * rows.rows_per_sample;
      for (int64_t t = sample * rows.rows_per_sample; t < sample_end; t += kRowBlock)
        add_block(t, std::min(t + kRowBlock, sample_end), column, column_end - column, dw);
    }
  };
  exec.pool->for_ranges(width, columns_per_piece(rows.rows()), add_columns);
}

void backward_weight(Exec& exec, const Tensor& dy_TD, const Tensor& x_TD, const Tensor& rstd_T,
                     const SampleRows& rows, const Tensor& dw_GD) {
  for_element_type(x_TD,
                   [&]<class T>(T) { backward_weight_columns<T>(exec, dy_TD, x_TD, rstd_T, rows, dw_GD); });
}

RmsNormKernels kernel_table() {
  return {forward, backward_input, backward_weight};
}

}  // namespace
}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moray::cpu {
namespace {
HWY_EXPORT(kernel_table);
RmsNormKernels table() {
  return HWY_DYNAMIC_DISPATCH(kernel_table)();
}
}  // namespace

void register_rms_norm() {
  kernels<RmsNormKernels>(Device::cpu) = {dispatched<&RmsNormKernels::forward, table>,
                                          dispatched<&RmsNormKernels::backward_input, table>,
                                          dispatched<&RmsNormKernels::backward_weight, table>};
}

}  // namespace moray::cpu
#endif  // HWY_ONCE
