#include "ops/adamw.h"

#include "backend/cpu/dispatch.h"
#include "backend/cpu/kernels_list.h"
#include "backend/cpu/pieces.h"
#include "base/math.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/adamw.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h, as Highway wants it.
#include "backend/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {
namespace {

// The step's scalars, computed in double once and rounded.
struct StepScalars {
  float gradient_scale, beta1, one_minus_beta1, beta2, one_minus_beta2, to_m_hat, to_v_hat, eps,
      learning_rate, decay;
};

StepScalars scalars_of(const AdamWStep& step) {
  const auto count = static_cast<double>(step.step);
  const auto correction = [&](double beta) { return beta > 0 ? 1 / (1 - portable::pow(beta, count)) : 1.0; };
  const auto f = [](double x) { return static_cast<float>(x); };
  return {f(step.gradient_scale),    f(step.beta1),
          f(1 - step.beta1),         f(step.beta2),
          f(1 - step.beta2),         f(correction(step.beta1)),
          f(correction(step.beta2)), f(step.eps),
          f(step.learning_rate),     f(step.weight_decay)};
}

template <class Moment>
void update_range(const StepScalars& s, const float* gradient, float* weight, Moment* m_all, Moment* v_all,
                  int64_t count) {
  for_vectors(count, [&](int64_t i, auto lanes) HWY_ATTR {
    const FloatVec g = hn::Mul(lanes.load(gradient + i), splat(s.gradient_scale)), w = lanes.load(weight + i);
    const FloatVec g_m = hn::Mul(splat(s.one_minus_beta1), g);
    const FloatVec g_v = hn::Mul(hn::Mul(splat(s.one_minus_beta2), g), g);
    const FloatVec m = hn::MulAdd(splat(s.beta1), lanes.load(m_all + i), g_m);
    const FloatVec v = hn::MulAdd(splat(s.beta2), lanes.load(v_all + i), g_v);
    const FloatVec root = hn::Sqrt(hn::Mul(v, splat(s.to_v_hat)));
    const FloatVec direction = hn::Div(hn::Mul(m, splat(s.to_m_hat)), hn::Add(root, splat(s.eps)));
    const FloatVec step = hn::MulAdd(splat(s.decay), w, direction);
    lanes.store(hn::NegMulAdd(splat(s.learning_rate), step, w), weight + i);
    lanes.store(m, m_all + i);
    lanes.store(v, v_all + i);
  });
}

template <class Moment>
void update_all(Exec& exec, const AdamWStep& step, const Tensor& gradient, const Tensor& weight,
                const Tensor& m, const Tensor& v) {
  const StepScalars scalars = scalars_of(step);
  const float* g = gradient.data<float>();
  float* w = weight.data<float>();
  Moment *m_all = m.data<Moment>(), *v_all = v.data<Moment>();
  exec.pool->for_ranges(weight.elements(), kPieceElements, [&](int64_t begin, int64_t end, int) HWY_ATTR {
    update_range(scalars, g + begin, w + begin, m_all + begin, v_all + begin, end - begin);
  });
}

void update(Exec& exec, const AdamWStep& step, const Tensor& gradient, const Tensor& weight, const Tensor& m,
            const Tensor& v) {
  if (m.dtype() == DType::bf16)
    update_all<bf16>(exec, step, gradient, weight, m, v);
  else
    update_all<float>(exec, step, gradient, weight, m, v);
}

void squares(Exec& exec, const Tensor& x_tensor, const Tensor& squares_B) {
  constexpr int64_t kBlocksPerPiece = kPieceElements / kNormBlock;
  const int64_t elements = x_tensor.elements();
  const float* x = x_tensor.data<float>();
  float* out = squares_B.data<float>();
  exec.pool->for_ranges(squares_B.elements(), kBlocksPerPiece, [&](int64_t begin, int64_t end, int) HWY_ATTR {
    for (int64_t block = begin; block < end; ++block) {
      const float* p = x + block * kNormBlock;
      const int64_t count = std::min(kNormBlock, elements - block * kNormBlock);
      out[block] = sum_in_lanes(count, [&](int64_t i, auto lanes, FloatVec& sum) HWY_ATTR {
        const FloatVec value = lanes.load(p + i);
        sum = hn::MulAdd(value, value, sum);
      });
    }
  });
}

void ema(Exec& exec, const Tensor& weight_tensor, double decay, const Tensor& average_tensor) {
  const float* weight = weight_tensor.data<float>();
  float* average = average_tensor.data<float>();
  const auto rate = static_cast<float>(1 - decay);
  exec.pool->for_ranges(weight_tensor.elements(), kPieceElements,
                        [&](int64_t begin, int64_t end, int) HWY_ATTR {
                          for_vectors(end - begin, [&](int64_t i, auto lanes) HWY_ATTR {
                            const FloatVec old = lanes.load(average + begin + i);
                            const FloatVec difference = hn::Sub(lanes.load(weight + begin + i), old);
                            lanes.store(hn::MulAdd(splat(rate), difference, old), average + begin + i);
                          });
                        });
}

AdamWKernels kernel_table() {
  return {update, squares, ema};
}

}  // namespace
}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moray::cpu {
namespace {
HWY_EXPORT(kernel_table);
AdamWKernels table() {
  return HWY_DYNAMIC_DISPATCH(kernel_table)();
}
}  // namespace

void register_adamw() {
  kernels<AdamWKernels>(Device::cpu) = {dispatched<&AdamWKernels::update, table>,
                                        dispatched<&AdamWKernels::squares, table>,
                                        dispatched<&AdamWKernels::ema, table>};
}

}  // namespace moray::cpu
#endif  // HWY_ONCE
