// T tokens (rows), I inputs, O outputs, R expert rows, E experts, G gradient groups.
#include "ops/matmul.h"

#include "backend/reference/dispatch.h"
#include "backend/reference/kernels.h"
#include "backend/reference/sums.h"

namespace moray::reference {
namespace {

// y[t][o] = Σ_i x[t][i] · w[o][i] for the rows [begin, end).
template <class T>
void forward_rows(int64_t begin, int64_t end, int64_t inputs, int64_t outputs, const T* x, const T* w, T* y) {
  for (int64_t t = begin; t < end; ++t)
    for (int64_t o = 0; o < outputs; ++o)
      y[t * outputs + o] = add_products(T{0}, x + t * inputs, 1, w + o * inputs, 1, inputs);
}

// dx[t][i] = Σ_o dy[t][o] · w[o][i], on top of what dx holds where `accumulate`.
template <class T>
void backward_input_rows(int64_t begin, int64_t end, int64_t inputs, int64_t outputs, const T* dy, const T* w,
                         T* dx, bool accumulate) {
  for (int64_t t = begin; t < end; ++t)
    for (int64_t i = 0; i < inputs; ++i) {
      T& sum = dx[t * inputs + i];
      sum = add_products(accumulate ? sum : T{0}, dy + t * outputs, 1, w + i, inputs, outputs);
    }
}

// dw[o][i] += Σ_t dy[t][o] · x[t][i] over the rows [begin, end) of one sample.
template <class T>
void backward_weight_rows(int64_t begin, int64_t end, int64_t inputs, int64_t outputs, const T* dy,
                          const T* x, T* dw) {
  for (int64_t o = 0; o < outputs; ++o)
    for (int64_t i = 0; i < inputs; ++i) {
      T& sum = dw[o * inputs + i];
      sum = add_products(sum, dy + begin * outputs + o, outputs, x + begin * inputs + i, inputs, end - begin);
    }
}

void forward(Exec&, const Tensor& x_TI, const Tensor& w_OI, const Tensor& y_TO) {
  for_sum_type(y_TO, [&]<class T>(T) {
    Elements<T> x(x_TI), w(w_OI), y(y_TO);
    forward_rows(0, x_TI.extent(0), x_TI.extent(1), w_OI.extent(0), x.data(), w.data(), y.data());
    y.store();
  });
}

void backward_input(Exec&, const Tensor& dy_TO, const Tensor& w_OI, const Tensor& dx_TI, bool accumulate) {
  for_sum_type(dx_TI, [&]<class T>(T) {
    Elements<T> dy(dy_TO), w(w_OI), dx(dx_TI);
    backward_input_rows(0, dy_TO.extent(0), w_OI.extent(1), w_OI.extent(0), dy.data(), w.data(), dx.data(),
                        accumulate);
    dx.store();
  });
}

void backward_weight(Exec&, const Tensor& dy_TO, const Tensor& x_TI, const SampleRows& rows,
                     const Tensor& dw_GOI) {
  for_sum_type(dw_GOI, [&]<class T>(T) {
    const int64_t outputs = dy_TO.extent(1), inputs = x_TI.extent(1);
    Elements<T> dy(dy_TO), x(x_TI), dw(dw_GOI);
    for (int64_t s = 0; s < rows.samples; ++s)
      backward_weight_rows(s * rows.rows_per_sample, (s + 1) * rows.rows_per_sample, inputs, outputs,
                           dy.data(), x.data(), dw.data() + rows.group(s) * outputs * inputs);
    dw.store();
  });
}

void grouped_forward(Exec&, const Tensor& x_RI, const Tensor& w_EOI, const ExpertRows& rows,
                     const Tensor& y_RO) {
  for_sum_type(y_RO, [&]<class T>(T) {
    const int64_t outputs = w_EOI.extent(1), inputs = w_EOI.extent(2);
    Elements<T> x(x_RI), w(w_EOI), y(y_RO);
    for (int64_t e = 0; e < rows.experts; ++e)
      forward_rows(rows.begin(e), rows.end(e), inputs, outputs, x.data(), w.data() + e * outputs * inputs,
                   y.data());
    y.store();
  });
}

void grouped_backward_input(Exec&, const Tensor& dy_RO, const Tensor& w_EOI, const ExpertRows& rows,
                            const Tensor& dx_RI, bool accumulate) {
  for_sum_type(dx_RI, [&]<class T>(T) {
    const int64_t outputs = w_EOI.extent(1), inputs = w_EOI.extent(2);
    Elements<T> dy(dy_RO), w(w_EOI), dx(dx_RI);
    for (int64_t e = 0; e < rows.experts; ++e)
      backward_input_rows(rows.begin(e), rows.end(e), inputs, outputs, dy.data(),
                          w.data() + e * outputs * inputs, dx.data(), accumulate);
    dx.store();
  });
}

void grouped_backward_weight(Exec&, const Tensor& dy_RO, const Tensor& x_RI, const ExpertRows& rows,
                             const Tensor& dw_EOI) {
  for_sum_type(dw_EOI, [&]<class T>(T) {
    const int64_t outputs = dw_EOI.extent(1), inputs = dw_EOI.extent(2);
    Elements<T> dy(dy_RO), x(x_RI), dw(dw_EOI);
    for (int64_t e = 0; e < rows.experts; ++e)
      for (int64_t s = 0; s < rows.samples; ++s)
        backward_weight_rows(rows.begin(e, s), rows.begin(e, s + 1), inputs, outputs, dy.data(), x.data(),
                             dw.data() + e * outputs * inputs);
    dw.store();
  });
}

}  // namespace

MatmulKernels matmul_kernels() {
  return {.forward = forward,
          .backward_input = backward_input,
          .backward_weight = backward_weight,
          .grouped_forward = grouped_forward,
          .grouped_backward_input = grouped_backward_input,
          .grouped_backward_weight = grouped_backward_weight};
}

}  // namespace moray::reference
