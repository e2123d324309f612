#include "ops/adamw.h"

#include "backend/reference/dispatch.h"
#include "backend/reference/kernels.h"
#include "backend/reference/sums.h"

namespace moray::reference {
namespace {

void update(Exec&, const AdamWStep& step, const Tensor& gradient, const Tensor& weight, const Tensor& m,
            const Tensor& v) {
  for_real_type(weight, [&]<class T>(T) {
    const T beta1 = static_cast<T>(step.beta1), beta2 = static_cast<T>(step.beta2);
    const T rest1 = static_cast<T>(1 - step.beta1), rest2 = static_cast<T>(1 - step.beta2);
    const T correction1 = static_cast<T>(1 - std::pow(step.beta1, static_cast<double>(step.step)));
    const T correction2 = static_cast<T>(1 - std::pow(step.beta2, static_cast<double>(step.step)));
    const T rate = static_cast<T>(step.learning_rate), decay = static_cast<T>(step.weight_decay);
    const T scale = static_cast<T>(step.gradient_scale), eps = static_cast<T>(step.eps);
    Elements<T> first(m), second(v);
    for (int64_t i = 0; i < weight.elements(); ++i) {
      const T g = scale * gradient.data<T>()[i];
      T& mean = first.data()[i];
      T& square = second.data()[i];
      T& w = weight.data<T>()[i];
      mean = beta1 * mean + rest1 * g;
      square = beta2 * square + rest2 * (g * g);
      w -= rate * (mean / correction1 / (std::sqrt(square / correction2) + eps) + decay * w);
    }
    first.store();
    second.store();
  });
}

void squares(Exec&, const Tensor& x, const Tensor& squares_B) {
  for_real_type(x, [&]<class T>(T) {
    for (int64_t b = 0; b < squares_B.extent(0); ++b) {
      LaneSum<T> sum;
      const int64_t begin = b * kNormBlock, end = std::min(begin + kNormBlock, x.elements());
      for (int64_t i = begin; i < end; ++i) sum.add_product(i - begin, x.data<T>()[i], x.data<T>()[i]);
      squares_B.data<T>()[b] = sum.total();
    }
  });
}

void ema(Exec&, const Tensor& weight, double decay, const Tensor& average) {
  for_real_type(average, [&]<class T>(T) {
    for (int64_t i = 0; i < average.elements(); ++i) {
      T& mean = average.data<T>()[i];
      mean += static_cast<T>(1 - decay) * (weight.data<T>()[i] - mean);
    }
  });
}

}  // namespace

AdamWKernels adamw_kernels() {
  return {.update = update, .squares = squares, .ema = ema};
}

}  // namespace moray::reference
