// T tokens (rows), I inputs, O outputs, R expert rows, E experts, G gradient groups.
#include "ops/matmul_fp8.h"

#include <array>
#include <cmath>

#include "backend/reference/dispatch.h"
#include "backend/reference/kernels.h"
#include "ops/tensor_core.h"

namespace moray::reference {
namespace {

// Elements of an operand along the summed axis.
template <class T>
struct Run {
  const T* first;
  int64_t step;
  int least_exponent;  // of the format's normal numbers

  T at(int64_t k) const { return first[k * step]; }
};

// A quantized matrix, its codes decoded, without scales.
template <class T>
class Operand {
 public:
  explicit Operand(const QuantizedTensor& q) : q_(q), columns_(q.columns()) {
    const int64_t rows = q.matrices() * q.rows_per_matrix();
    values_.reserve(static_cast<size_t>(rows * columns_));
    for_code_format(q.format, [&]<class Format>(Format) {
      for (int64_t row = 0; row < rows; ++row)
        for (int64_t column = 0; column < columns_; ++column)
          values_.push_back(static_cast<T>(
              to_float(load_code<Format>(q.codes.raw() + static_cast<size_t>(row) * q.row_bytes(), column))));
    });
  }

  Run<T> along_row(int64_t row, int64_t column) const { return run(row, column, 1); }
  Run<T> along_column(int64_t row, int64_t column) const { return run(row, column, columns_); }
  int64_t columns() const { return columns_; }
  // Scale (i, j) of the tiling's table, through a stack of matrices.
  T scale(int64_t i, int64_t j) const {
    return static_cast<T>(q_.scales.data<float>()[i * q_.scales.extent(-1) + j]);
  }

 private:
  Run<T> run(int64_t row, int64_t column, int64_t step) const {
    const int least = for_code_format(q_.format, []<class Format>(Format) { return kLeastExponent<Format>; });
    return {values_.data() + row * columns_ + column, step, least};
  }

  const QuantizedTensor& q_;
  int64_t columns_;
  std::vector<T> values_;
};

// sum + scale · Σ_k a[k] · b[k]: the products added apart from zero by fma, then one more fma.
template <class T>
[[gnu::target("fma")]] T add_block(T sum, T scale, Run<T> a, Run<T> b, int64_t count) {
  T part = 0;
  for (int64_t k = 0; k < count; ++k) part = std::fma(a.at(k), b.at(k), part);
  return std::fma(scale, part, sum);
}

// The same as a tensor core forms it.
template <class T>
[[gnu::target("fma")]] T add_block_on(const TensorCore& core, T sum, T scale, Run<T> a, Run<T> b,
                                      int64_t count) {
  const int64_t promotion = core.promotion == 0 ? kTile : std::min(core.promotion, kTile);
  std::array<float, kTile> a_k, b_k;
  for (int64_t first = 0; first < count; first += promotion) {
    const int64_t products = std::min(promotion, count - first);
    for (int64_t k = 0; k < products; ++k) {
      a_k[static_cast<size_t>(k)] = static_cast<float>(a.at(first + k));
      b_k[static_cast<size_t>(k)] = static_cast<float>(b.at(first + k));
    }
    TensorCoreSum part({core.bits, core.round, 0}, a.least_exponent, b.least_exponent);
    part.add(a_k.data(), b_k.data(), products);
    sum = std::fma(scale, static_cast<T>(part.value()), sum);
  }
  return sum;
}

template <class T>
T add_block(const Exec& exec, T sum, T scale, Run<T> a, Run<T> b, int64_t count) {
  return exec.tensor_core == nullptr ? add_block(sum, scale, a, b, count)
                                     : add_block_on(*exec.tensor_core, sum, scale, a, b, count);
}

// y[t][o] = Σ_i x[t][i] · w[o][i] for the rows [begin, end), with matrix `expert` of the stack w.
template <class T>
void forward_rows(const Exec& exec, int64_t begin, int64_t end, const Operand<T>& x, const Operand<T>& w,
                  int64_t expert, int64_t outputs, T* y) {
  const int64_t inputs = x.columns(), first = expert * outputs;
  const int64_t first_scale = expert * ((outputs + kTile - 1) / kTile);
  for (int64_t t = begin; t < end; ++t)
    for (int64_t o = 0; o < outputs; ++o) {
      T sum = 0;
      for (int64_t i = 0; i < inputs; i += kTile)
        sum = add_block(exec, sum, x.scale(t, i / kTile) * w.scale(first_scale + o / kTile, i / kTile),
                        x.along_row(t, i), w.along_row(first + o, i), std::min(kTile, inputs - i));
      y[t * outputs + o] = sum;
    }
}

// dx[t][i] (+)= Σ_o dy[t][o] · w[o][i] for the rows [begin, end), likewise.
template <class T>
void backward_input_rows(const Exec& exec, int64_t begin, int64_t end, const Operand<T>& dy,
                         const Operand<T>& w, int64_t expert, T* dx, bool accumulate) {
  const int64_t inputs = w.columns(), outputs = dy.columns(), first = expert * outputs;
  const int64_t first_scale = expert * ((outputs + kTile - 1) / kTile);
  for (int64_t t = begin; t < end; ++t)
    for (int64_t i = 0; i < inputs; ++i) {
      T sum = accumulate ? dx[t * inputs + i] : T{0};
      for (int64_t o = 0; o < outputs; o += kTile)
        sum = add_block(exec, sum, dy.scale(t, o / kTile) * w.scale(first_scale + o / kTile, i / kTile),
                        dy.along_row(t, o), w.along_column(first + o, i), std::min(kTile, outputs - o));
      dx[t * inputs + i] = sum;
    }
}

// dw[o][i] += Σ_t dy[t][o] · x[t][i] over the rows [begin, end): row block n.
template <class T>
void add_row_block(const Exec& exec, int64_t n, int64_t begin, int64_t end, const Operand<T>& dy,
                   const Operand<T>& x, T* dw) {
  const int64_t inputs = x.columns(), outputs = dy.columns();
  for (int64_t o = 0; o < outputs; ++o)
    for (int64_t i = 0; i < inputs; ++i) {
      T& sum = dw[o * inputs + i];
      sum = add_block(exec, sum, dy.scale(n, o) * x.scale(n, i), dy.along_column(begin, o),
                      x.along_column(begin, i), end - begin);
    }
}

void forward(Exec& exec, const QuantizedTensor& x_TI, const QuantizedTensor& w_OI, const Tensor& y_TO) {
  for_sum_type(y_TO, [&]<class T>(T) {
    const Operand<T> x(x_TI), w(w_OI);
    Elements<T> y(y_TO);
    forward_rows(exec, 0, x_TI.shape[0], x, w, 0, w_OI.shape[0], y.data());
    y.store();
  });
}

void backward_input(Exec& exec, const QuantizedTensor& dy_TO, const QuantizedTensor& w_OI,
                    const Tensor& dx_TI, bool accumulate) {
  for_sum_type(dx_TI, [&]<class T>(T) {
    const Operand<T> dy(dy_TO), w(w_OI);
    Elements<T> dx(dx_TI);
    backward_input_rows(exec, 0, dy_TO.shape[0], dy, w, 0, dx.data(), accumulate);
    dx.store();
  });
}

void backward_weight(Exec& exec, const QuantizedTensor& dy_TO, const QuantizedTensor& x_TI,
                     const SampleRows& rows, const Tensor& dw_GOI) {
  for_sum_type(dw_GOI, [&]<class T>(T) {
    const Operand<T> dy(dy_TO), x(x_TI);
    Elements<T> dw(dw_GOI);
    int64_t n = 0;
    for_row_blocks(rows, [&](int64_t begin, int64_t end) {
      const int64_t group = rows.group(begin / rows.rows_per_sample);
      add_row_block(exec, n++, begin, end, dy, x, dw.data() + group * dy.columns() * x.columns());
    });
    dw.store();
  });
}

void grouped_forward(Exec& exec, const QuantizedTensor& x_RI, const QuantizedTensor& w_EOI,
                     const ExpertRows& rows, const Tensor& y_RO) {
  for_sum_type(y_RO, [&]<class T>(T) {
    const Operand<T> x(x_RI), w(w_EOI);
    Elements<T> y(y_RO);
    for (int64_t e = 0; e < rows.experts; ++e)
      forward_rows(exec, rows.begin(e), rows.end(e), x, w, e, w_EOI.shape[1], y.data());
    y.store();
  });
}

void grouped_backward_input(Exec& exec, const QuantizedTensor& dy_RO, const QuantizedTensor& w_EOI,
                            const ExpertRows& rows, const Tensor& dx_RI, bool accumulate) {
  for_sum_type(dx_RI, [&]<class T>(T) {
    const Operand<T> dy(dy_RO), w(w_EOI);
    Elements<T> dx(dx_RI);
    for (int64_t e = 0; e < rows.experts; ++e)
      backward_input_rows(exec, rows.begin(e), rows.end(e), dy, w, e, dx.data(), accumulate);
    dx.store();
  });
}

void grouped_backward_weight(Exec& exec, const QuantizedTensor& dy_RO, const QuantizedTensor& x_RI,
                             const ExpertRows& rows, const Tensor& dw_EOI) {
  for_sum_type(dw_EOI, [&]<class T>(T) {
    const Operand<T> dy(dy_RO), x(x_RI);
    Elements<T> dw(dw_EOI);
    int64_t n = 0, expert = 0;
    for_row_blocks(rows, [&](int64_t begin, int64_t end) {
      while (begin >= rows.end(expert)) ++expert;
      add_row_block(exec, n++, begin, end, dy, x, dw.data() + expert * dy.columns() * x.columns());
    });
    dw.store();
  });
}

}  // namespace

MatmulFp8Kernels matmul_fp8_kernels() {
  return {.forward = forward,
          .backward_input = backward_input,
          .backward_weight = backward_weight,
          .grouped_forward = grouped_forward,
          .grouped_backward_input = grouped_backward_input,
          .grouped_backward_weight = grouped_backward_weight};
}

}  // namespace moray::reference
