// T rows, D hidden, V vocabulary, G gradient groups.
#include "ops/cross_entropy.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "ops/tolerances.h"
#include "tests/support/gradient_check.h"
#include "tests/support/workbench.h"

namespace moray {
namespace {

struct LossCase {
  int64_t samples, rows_per_sample, width, vocabulary, groups;
  bool bf16_operands = false;
};

void PrintTo(const LossCase& c, std::ostream* os) {
  *os << c.samples << "x" << c.rows_per_sample << " rows of " << c.width << ", vocabulary " << c.vocabulary
      << ", G " << c.groups << (c.bf16_operands ? ", bf16" : "");
}

// Every seventh row has no target.
Tensor some_targets(Workbench& bench, int64_t rows, int64_t vocabulary) {
  const Tensor targets = bench.ints_below("targets", {rows}, static_cast<int32_t>(vocabulary));
  for (int64_t t = 3; t < rows; t += 7) targets.data<int32_t>()[t] = -1;
  return targets;
}

class CrossEntropy : public testing::TestWithParam<LossCase> {};

TEST_P(CrossEntropy, AgreesWithReference) {
  const OpCase op = [](Workbench& bench) {
    const LossCase& c = GetParam();
    const int64_t T = c.samples * c.rows_per_sample, D = c.width, V = c.vocabulary;
    const double spread = 2 / std::sqrt(static_cast<double>(D));
    const auto operand = [&](const char* name, Shape shape, double scale) {
      return c.bf16_operands ? bench.normal_bf16(name, shape, scale) : bench.normal(name, shape, scale);
    };
    const Tensor h = operand("h", {T, D}, 1), w = operand("w", {V, D}, spread),
                 targets = some_targets(bench, T, V);
    const Tensor loss = bench.empty_wide({T}), again = bench.wide("stale loss", {T}),
                 dh = bench.normal("stale dh", {T, D});
    const Tensor dw = bench.wide("dw", {c.groups, V, D}, 0.01);
    cross_entropy_forward(bench.exec, h, w, targets, loss);
    cross_entropy_forward_backward(bench.exec, h, w, targets, {c.samples, c.rows_per_sample, 1, c.groups},
                                   0.01, again, dh, dw);
    return NamedOutputs{{"loss", loss}, {"loss again", again}, {"dh", dh}, {"dw", dw}};
  };
  expect_close(tolerance::kCrossEntropy, op);
  expect_same_bits_on_threads(op);
  expect_close_bf16(tolerance::kToBf16, op);
  expect_same_bf16_bits_on_threads(op);
}

INSTANTIATE_TEST_SUITE_P(Shapes, CrossEntropy,
                         testing::Values(LossCase{1, 1, 1, 2, 1}, LossCase{1, 1, 128, 257, 1},
                                         LossCase{3, 43, 37, 61, 2}, LossCase{2, 127, 13, 129, 1},
                                         LossCase{1, 257, 67, 131, 1}, LossCase{4, 2, 129, 127, 3},
                                         LossCase{2, 129, 20, 1031, 2}, LossCase{2, 65, 40, 300, 1, true}));

// Equal logits lose log V; a certain right answer loses nothing; a row without a target neither loses nor
// teaches.
TEST(CrossEntropy, ClosedForms) {
  for (Device device : {Device::reference, Device::cpu}) {
    Workbench bench(device, DType::f32);
    const Tensor h = bench.zeros({3, 2}), w = bench.zeros({5, 2}), loss = bench.empty({3});
    const Tensor dh = bench.empty({3, 2}), dw = bench.zeros({1, 5, 2}), targets = bench.ints({3}, {4, 1, -1});
    h.data<float>()[2] = 100;
    h.data<float>()[4] = 3;
    w.data<float>()[2] = 1;
    cross_entropy_forward_backward(bench.exec, h, w, targets, {1, 3, 0, 1}, 1, loss, dh, dw);
    EXPECT_NEAR(loss.data<float>()[0], std::log(5.0), 1e-6) << device_name(device);
    EXPECT_NEAR(loss.data<float>()[1], 0, 1e-6) << device_name(device);
    EXPECT_EQ(loss.data<float>()[2], 0) << device_name(device);
    EXPECT_EQ(dh.data<float>()[4], 0) << device_name(device);
    for (float g : dw.span<float>()) EXPECT_NEAR(g, 0, 1e-30) << device_name(device);
  }
}

TEST(CrossEntropy, NamesATargetBeyondTheVocabulary) {
  Workbench bench(Device::reference, DType::f32);
  const Tensor h = bench.zeros({2, 2}), w = bench.zeros({5, 2}), loss = bench.empty({2});
  try {
    cross_entropy_forward(bench.exec, h, w, bench.ints({2}, {4, 5}), loss);
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "target 5 at position 1 is beyond the vocabulary of 5");
  }
}

TEST(CrossEntropyReference, Gradients) {
  Workbench bench(Device::reference, DType::f64);
  const double gradient_scale = 0.25;
  const Tensor h = bench.normal("h", {8, 5}), w = bench.normal("w", {7, 5}),
               targets = some_targets(bench, 8, 7);
  const Tensor loss = bench.empty({8}), dh = bench.empty({8, 5}), dw = bench.zeros({1, 7, 5}),
               ones = bench.empty({8});
  std::ranges::fill(ones.span<double>(), gradient_scale);
  cross_entropy_forward_backward(bench.exec, h, w, targets, {2, 4, 0, 1}, gradient_scale, loss, dh, dw);
  expect_gradients({{"h", h, dh}, {"w", w, dw.row(0)}}, [&] {
    cross_entropy_forward(bench.exec, h, w, targets, loss);
    return dot(loss, ones);
  });
}

}  // namespace
}  // namespace moray
