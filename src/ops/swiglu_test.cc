// R rows, F width.
#include "ops/swiglu.h"

#include <gtest/gtest.h>

#include <cmath>

#include "ops/tolerances.h"
#include "tests/support/gradient_check.h"
#include "tests/support/workbench.h"

namespace moray {
namespace {

class Swiglu : public testing::TestWithParam<std::pair<int64_t, int64_t>> {};

TEST_P(Swiglu, AgreesWithReference) {
  const Shape shape{GetParam().first, GetParam().second};
  const OpCase op = [&](Workbench& bench) {
    const Tensor gate = bench.normal("gate", shape, 4), up = bench.normal("up", shape),
                 dh = bench.normal("dh", shape);
    const Tensor router_gate = bench.wide("router_gate", {shape[0]}),
                 drouter_gate = bench.empty_wide({shape[0]});
    const Tensor h = bench.empty(shape);
    swiglu_forward(bench.exec, gate, up, h);
    NamedOutputs outputs{{"h", h}};
    for (bool in_expert : {false, true}) {
      const Tensor dgate = bench.empty(shape), dup = bench.empty(shape), again = bench.empty(shape);
      swiglu_backward(bench.exec, dh, gate, up, in_expert ? router_gate : Tensor{}, dgate, dup, again,
                      in_expert ? drouter_gate : Tensor{});
      outputs.insert(outputs.end(), {{"dgate", dgate}, {"dup", dup}, {"h again", again}});
    }
    outputs.emplace_back("drouter_gate", drouter_gate);
    return outputs;
  };
  expect_close(tolerance::kSwiglu, op);
  expect_same_bits_on_threads(op);
  expect_close_bf16(tolerance::kToBf16, op);
  expect_same_bf16_bits_on_threads(op);
}

INSTANTIATE_TEST_SUITE_P(Shapes, Swiglu,
                         testing::Values(std::pair{1, 1}, std::pair{1, 129}, std::pair{37, 61},
                                         std::pair{257, 127}, std::pair{128, 128}, std::pair{5, 257}));

TEST(SwigluReference, StaysFiniteFarOut) {
  for (Device device : {Device::reference, Device::cpu}) {
    Workbench bench(device, DType::f32);
    const Tensor gate = bench.empty({1, 2}), up = bench.empty({1, 2}), h = bench.empty({1, 2});
    gate.data<float>()[0] = -1000;
    gate.data<float>()[1] = 1000;
    std::ranges::fill(up.span<float>(), 2.0f);
    swiglu_forward(bench.exec, gate, up, h);
    EXPECT_NEAR(h.data<float>()[0], 0.0f, 1e-30f) << device_name(device);
    EXPECT_EQ(h.data<float>()[1], 2000.0f) << device_name(device);
  }
}

TEST(SwigluReference, Gradients) {
  Workbench bench(Device::reference, DType::f64);
  const Shape shape{5, 7};
  const Tensor gate = bench.normal("gate", shape), up = bench.normal("up", shape),
               dy = bench.normal("dy", shape);
  const Tensor h = bench.empty(shape), dgate = bench.empty(shape), dup = bench.empty(shape),
               again = bench.empty(shape);
  swiglu_backward(bench.exec, dy, gate, up, Tensor{}, dgate, dup, again, Tensor{});
  expect_gradients({{"gate", gate, dgate}, {"up", up, dup}}, [&] {
    swiglu_forward(bench.exec, gate, up, h);
    return dot(h, dy);
  });
  swiglu_forward(bench.exec, gate, up, h);
  EXPECT_TRUE(std::ranges::equal(h.span<double>(), again.span<double>()));
}

// loss = Σ_r g_r Σ_f h_rf · dy_rf, as a row passes an expert with its router gate.
TEST(SwigluReference, GradientsWithRouterGates) {
  Workbench bench(Device::reference, DType::f64);
  const Shape shape{5, 19};
  const Tensor gate = bench.normal("gate", shape), up = bench.normal("up", shape),
               dy = bench.normal("dy", shape);
  const Tensor g = bench.normal("g", {5}), dg = bench.empty({5});
  const Tensor h = bench.empty(shape), dgate = bench.empty(shape), dup = bench.empty(shape),
               gh = bench.empty(shape);
  swiglu_backward(bench.exec, dy, gate, up, g, dgate, dup, gh, dg);
  const auto loss = [&] {
    swiglu_forward(bench.exec, gate, up, h);
    double sum = 0;
    for (int64_t r = 0; r < 5; ++r) sum += g.data<double>()[r] * dot(h.row(r), dy.row(r));
    return sum;
  };
  expect_gradients({{"gate", gate, dgate}, {"up", up, dup}, {"g", g, dg}}, loss);
  EXPECT_NEAR(dot(gh, dy), loss(), 1e-12);
}

}  // namespace
}  // namespace moray
