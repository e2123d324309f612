// R rows, F width.
#include "ops/swiglu.h"

#include "backend/cpu/dispatch.h"
#include "backend/cpu/element_type.h"
#include "backend/cpu/kernels_list.h"
#include "backend/cpu/pieces.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/swiglu.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h, as Highway wants it.
#include "backend/cpu/lanes-inl.h"
#include "backend/cpu/vector_math.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {
namespace {

template <class T, class Whole>
void forward_elements(Exec& exec, const Tensor& gate_RF, const Tensor& up_RF, const Tensor& h_RF) {
  const T *gate = gate_RF.data<T>(), *up = up_RF.data<T>();
  T* h = h_RF.data<T>();
  exec.pool->for_ranges(h_RF.elements(), kPieceElements, [&](int64_t begin, int64_t end, int) HWY_ATTR {
    for_vectors<Whole>(end - begin, [&](int64_t offset, auto lanes) HWY_ATTR {
      const int64_t i = begin + offset;
      const FloatVec x = lanes.load(gate + i);
      const FloatVec silu = hn::Mul(x, vector_sigmoid(FloatTag(), x));
      lanes.store(hn::Mul(silu, lanes.load(up + i)), h + i);
    });
    hwy::FlushStream();
  });
}

void forward(Exec& exec, const Tensor& gate_RF, const Tensor& up_RF, const Tensor& h_RF) {
  for_written_type(
      h_RF, [&]<class T, class Whole>(T, Whole) { forward_elements<T, Whole>(exec, gate_RF, up_RF, h_RF); });
}

template <class T>
struct BackwardRow {
  const T *dh, *gate, *up;
  T *dgate, *dup, *h;
};

// The vector at i of a row whose router gate is r (1 without one); adds dh'·h to `sum`.
template <class T, class Lanes>
HWY_INLINE void backward_vector(const BackwardRow<T>& row, int64_t i, Lanes lanes, FloatVec r,
                                FloatVec& sum) {
  const FloatVec one = splat(1.0f);
  const FloatVec x = lanes.load(row.gate + i), up = lanes.load(row.up + i),
                 dh_unscaled = lanes.load(row.dh + i);
  const FloatVec sigmoid = vector_sigmoid(FloatTag(), x);
  const FloatVec silu = hn::Mul(x, sigmoid);
  const FloatVec dsilu = hn::MulAdd(silu, hn::Sub(one, sigmoid), sigmoid);
  const FloatVec h = hn::Mul(silu, up), dh = hn::Mul(r, dh_unscaled);
  lanes.store(hn::Mul(hn::Mul(dh, up), dsilu), row.dgate + i);
  lanes.store(hn::Mul(dh, silu), row.dup + i);
  lanes.store(hn::Mul(r, h), row.h + i);
  sum = hn::MulAdd(dh_unscaled, h, sum);
}

template <class T, class Whole>
void backward_rows(Exec& exec, const Tensor& dh_RF, const Tensor& gate_RF, const Tensor& up_RF,
                   const Tensor& router_gate_R, const Tensor& dgate_RF, const Tensor& dup_RF,
                   const Tensor& h_RF, const Tensor& drouter_gate_R) {
  const int64_t width = gate_RF.extent(1);
  const BackwardRow<T> all = {dh_RF.data<T>(),    gate_RF.data<T>(), up_RF.data<T>(),
                              dgate_RF.data<T>(), dup_RF.data<T>(),  h_RF.data<T>()};
  const bool routed = router_gate_R.defined();
  const float* router_gate = routed ? router_gate_R.data<float>() : nullptr;
  float* drouter_gate = routed ? drouter_gate_R.data<float>() : nullptr;
  exec.pool->for_ranges(
      gate_RF.extent(0), rows_per_piece(width), [&](int64_t begin, int64_t end, int) HWY_ATTR {
        for (int64_t t = begin; t < end; ++t) {
          const int64_t at = t * width;
          const BackwardRow<T> row = {all.dh + at,    all.gate + at, all.up + at,
                                      all.dgate + at, all.dup + at,  all.h + at};
          const FloatVec r = splat(routed ? router_gate[t] : 1.0f);
          const float dot = sum_in_lanes<Whole>(width, [&](int64_t i, auto lanes, FloatVec& sum) HWY_ATTR {
            backward_vector(row, i, lanes, r, sum);
          });
          if (routed) drouter_gate[t] = dot;
        }
        hwy::FlushStream();
      });
}

void backward(Exec& exec, const Tensor& dh_RF, const Tensor& gate_RF, const Tensor& up_RF,
              const Tensor& router_gate_R, const Tensor& dgate_RF, const Tensor& dup_RF, const Tensor& h_RF,
              const Tensor& drouter_gate_R) {
  for_written_type(h_RF, [&]<class T, class Whole>(T, Whole) {
    backward_rows<T, Whole>(exec, dh_RF, gate_RF, up_RF, router_gate_R, dgate_RF, dup_RF, h_RF,
                            drouter_gate_R);
  });
}

SwigluKernels kernel_table() {
  return {forward, backward};
}

}  // namespace
}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moray::cpu {
namespace {
HWY_EXPORT(kernel_table);
SwigluKernels table() {
  return HWY_DYNAMIC_DISPATCH(kernel_table)();
}
}  // namespace

void register_swiglu() {
  kernels<SwigluKernels>(Device::cpu) = {dispatched<&SwigluKernels::forward, table>,
                                         dispatched<&SwigluKernels::backward, table>};
}

}  // namespace moray::cpu
#endif  // HWY_ONCE
