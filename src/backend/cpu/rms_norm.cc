// T rows, D width, G gradient groups.
#include "ops/rms_norm.h"

#include <cmath>
#include <limits>

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

// 1 / sqrt(mean + eps) with the processor's correctly rounded root and division; NaN for an infinite mean.
float reciprocal_root(float mean, float eps) {
  if (std::isinf(mean)) return std::numeric_limits<float>::quiet_NaN();
  const hn::CappedTag<float, 1> d;
  return hn::GetLane(hn::Div(hn::Set(d, 1.0f), hn::Sqrt(hn::Set(d, mean + eps))));
}

template <class T, class Whole>
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
      for_vectors<Whole>(width, [&](int64_t i, auto lanes) HWY_ATTR {
        hwy::Prefetch(x + width + i);  // the next row, while this one's second pass leaves memory idle
        lanes.store(hn::Mul(hn::Mul(lanes.load(x + i), scale), lanes.load(w + i)), y + i);
      });
    }
    hwy::FlushStream();
  });
}

void forward(Exec& exec, const Tensor& x_TD, const Tensor& w_D, double eps, const Tensor& y_TD,
             const Tensor& rstd_T) {
  for_written_type(y_TD, [&]<class T, class Whole>(T, Whole) {
    forward_rows<T, Whole>(exec, x_TD, w_D, eps, y_TD, rstd_T);
  });
}

template <class T, class Whole, bool kAccumulate>
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
      for_vectors<Whole>(width, [&](int64_t i, auto lanes) HWY_ATTR {
        hwy::Prefetch(dy + width + i);
        hwy::Prefetch(x + width + i);
        const FloatVec direct = hn::Mul(lanes.load(dy + i), lanes.load(w + i));
        FloatVec result = hn::Mul(scale, hn::NegMulAdd(lanes.load(x + i), along_x, direct));
        if constexpr (kAccumulate) result = hn::Add(lanes.load(dx + i), result);
        lanes.store(result, dx + i);
      });
    }
    hwy::FlushStream();
  });
}

void backward_input(Exec& exec, const Tensor& dy_TD, const Tensor& x_TD, const Tensor& w_D,
                    const Tensor& rstd_T, const Tensor& dx_TD, bool accumulate) {
  for_written_type(dx_TD, [&]<class T, class Whole>(T, Whole) {
    if (accumulate)
      backward_input_rows<T, WholeVector, true>(exec, dy_TD, x_TD, w_D, rstd_T, dx_TD);
    else
      backward_input_rows<T, Whole, false>(exec, dy_TD, x_TD, w_D, rstd_T, dx_TD);
  });
}

// part += dyᵀ · x̂ over rows [begin, end), all columns of a row before the next, as they lie in memory.
template <class T>
void add_rows(const T* dy, const T* x, const float* rstd, int64_t begin, int64_t end, int64_t width,
              float* part) {
  std::fill_n(part, width, 0.0f);
  for (int64_t t = begin; t < end; ++t) {
    const FloatVec scale = splat(rstd[t]);
    for_vectors(width, [&](int64_t i, auto lanes) HWY_ATTR {
      const int64_t at = t * width + i;
      lanes.store(hn::MulAdd(lanes.load(dy + at), hn::Mul(lanes.load(x + at), scale), lanes.load(part + i)),
                  part + i);
    });
  }
}

// Blocks of rows apart, then joined in their order.
template <class T>
void backward_weight_blocks(Exec& exec, const Tensor& dy_TD, const Tensor& x_TD, const Tensor& rstd_T,
                            const SampleRows& rows, const Tensor& dw_GD) {
  const int64_t width = x_TD.extent(1);
  const T *dy = dy_TD.data<T>(), *x = x_TD.data<T>();
  const float* rstd = rstd_T.data<float>();
  const int64_t a_sample = (rows.rows_per_sample + kRowBlock - 1) / kRowBlock,
                blocks = rows.samples * a_sample;
  if (blocks == 0) return;
  const Tensor parts_BD = Tensor::empty(*exec.allocator, {blocks, width}, DType::f32);
  float *parts = parts_BD.data<float>(), *dw_all = dw_GD.data<float>();
  exec.pool->for_each(blocks, [&](int64_t block, int) {
    const int64_t first = block / a_sample * rows.rows_per_sample,
                  begin = first + block % a_sample * kRowBlock;
    add_rows(dy, x, rstd, begin, std::min(begin + kRowBlock, first + rows.rows_per_sample), width,
             parts + block * width);
  });
  exec.pool->for_ranges(width, columns_per_piece(blocks), [&](int64_t begin, int64_t end, int) HWY_ATTR {
    for (int64_t block = 0; block < blocks; ++block) {
      const float* part = parts + block * width + begin;
      float* dw = dw_all + rows.group(block / a_sample) * width + begin;
      for_vectors(end - begin, [&](int64_t i, auto lanes) HWY_ATTR {
        lanes.store(hn::Add(lanes.load(dw + i), lanes.load(part + i)), dw + i);
      });
    }
  });
}

void backward_weight(Exec& exec, const Tensor& dy_TD, const Tensor& x_TD, const Tensor& rstd_T,
                     const SampleRows& rows, const Tensor& dw_GD) {
  for_element_type(x_TD,
                   [&]<class T>(T) { backward_weight_blocks<T>(exec, dy_TD, x_TD, rstd_T, rows, dw_GD); });
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
