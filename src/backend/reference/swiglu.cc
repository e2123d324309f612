// R rows, F width.
#include "ops/swiglu.h"

#include "backend/reference/dispatch.h"
#include "backend/reference/kernels.h"
#include "backend/reference/sums.h"

namespace moray::reference {
namespace {

void forward(Exec&, const Tensor& gate_RF, const Tensor& up_RF, const Tensor& h_RF) {
  for_sum_type(h_RF, [&]<class T>(T) {
    Elements<T> gates(gate_RF), ups(up_RF), hs(h_RF);
    for (int64_t i = 0; i < h_RF.elements(); ++i) {
      const T gate = gates.data()[i];
      hs.data()[i] = gate * sigmoid(gate) * ups.data()[i];
    }
    hs.store();
  });
}

// silu'(x) = sigmoid(x) · (1 + x · (1 − sigmoid(x)))
void backward(Exec&, const Tensor& dh_RF, const Tensor& gate_RF, const Tensor& up_RF,
              const Tensor& router_gate_R, const Tensor& dgate_RF, const Tensor& dup_RF, const Tensor& h_RF,
              const Tensor& drouter_gate_R) {
  for_sum_type(h_RF, [&]<class T>(T) {
    const int64_t width = gate_RF.extent(1);
    Elements<T> dhs(dh_RF), gates(gate_RF), ups(up_RF), dgates(dgate_RF), dups(dup_RF), hs(h_RF);
    for (int64_t r = 0; r < gate_RF.extent(0); ++r) {
      const T router_gate = router_gate_R.defined() ? router_gate_R.data<T>()[r] : T{1};
      LaneSum<T> drouter_gate;
      for (int64_t f = 0; f < width; ++f) {
        const int64_t i = r * width + f;
        const T gate = gates.data()[i], up = ups.data()[i], dh = dhs.data()[i];
        const T s = sigmoid(gate);
        const T h = gate * s * up;
        const T scaled = router_gate * dh;
        drouter_gate.add_product(f, dh, h);
        dgates.data()[i] = scaled * up * (s * (1 + gate * (1 - s)));
        dups.data()[i] = scaled * (gate * s);
        hs.data()[i] = router_gate * h;
      }
      if (drouter_gate_R.defined()) drouter_gate_R.data<T>()[r] = drouter_gate.total();
    }
    dgates.store();
    dups.store();
    hs.store();
  });
}

}  // namespace

SwigluKernels swiglu_kernels() {
  return {.forward = forward, .backward = backward};
}

}  // namespace moray::reference
