#include "ops/adamw.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "ops/tolerances.h"
#include "tests/support/workbench.h"

namespace moray {
namespace {

class AdamW : public testing::TestWithParam<int64_t> {};

// Three steps, so that the moments of one are the next one's input.
NamedOutputs three_steps(Workbench& bench, int64_t size, DType moments) {
  const Tensor weight = bench.normal("weight", {size}, 0.5);
  const Tensor m = Tensor::zeros(*bench.exec.allocator, {size}, moments);
  const Tensor v = Tensor::zeros(*bench.exec.allocator, {size}, moments);
  for (int64_t step = 1; step <= 3; ++step) {
    const Tensor gradient = bench.normal("gradient " + std::to_string(step), {size}, 1e-3);
    adamw_update(
        bench.exec,
        {.learning_rate = 0.01, .weight_decay = 0.1, .step = step, .gradient_scale = step == 2 ? 0.3 : 1.0},
        gradient, weight, m, v);
  }
  return {{"weight", weight}, {"m", m}, {"v", v}};
}

TEST_P(AdamW, AgreesWithReference) {
  const OpCase op = [](Workbench& bench) { return three_steps(bench, GetParam(), bench.exec.dtype); };
  expect_close(tolerance::kAdamW, op);
  expect_same_bits_on_threads(op);
}

TEST_P(AdamW, AgreesWithReferenceWithBf16Moments) {
  const OpCase op = [](Workbench& bench) { return three_steps(bench, GetParam(), DType::bf16); };
  expect_close(tolerance::kAdamWMomentsBf16, op);
  expect_same_bits_on_threads(op);
}

TEST_P(AdamW, AverageAndSquaresAgreeWithReference) {
  const OpCase op = [](Workbench& bench) {
    const int64_t size = GetParam();
    const Tensor x = bench.normal("x", {size}), average = bench.normal("average", {size});
    const Tensor squares = bench.empty({(size + kNormBlock - 1) / kNormBlock});
    ema_update(bench.exec, x, 0.999, average);
    squares_of_blocks(bench.exec, x, squares);
    return NamedOutputs{{"average", average}, {"squares", squares}};
  };
  expect_close(tolerance::kSquares, op);
  expect_same_bits_on_threads(op);
}

TEST_P(AdamW, SquaresHaveReferenceBits) {
  expect_reference_bits([](Workbench& bench) {
    const int64_t size = GetParam();
    const Tensor squares = bench.empty({(size + kNormBlock - 1) / kNormBlock});
    squares_of_blocks(bench.exec, bench.normal("x", {size}), squares);
    return NamedOutputs{{"squares", squares}};
  });
}

INSTANTIATE_TEST_SUITE_P(Sizes, AdamW, testing::Values(1, 13, 127, 4096, 4097, 12289, 100003));

double mean_of(const Tensor& values) {
  double sum = 0;
  for (int64_t i = 0; i < values.elements(); ++i)
    sum += values.dtype() == DType::bf16 ? to_float(values.data<bf16>()[i]) : values.data<float>()[i];
  return sum / static_cast<double>(values.elements());
}

// Mean of v in BF16 over its mean in FP32, after 3000 gradients from N(0, 1).
double second_moment_ratio(double beta2) {
  constexpr int64_t kSize = 512, kSteps = 3000;
  Workbench bench(Device::cpu, DType::f32);
  double means[2];
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Tensor weight = bench.zeros({kSize}), m = Tensor::zeros(*bench.exec.allocator, {kSize}, dtype),
                 v = Tensor::zeros(*bench.exec.allocator, {kSize}, dtype);
    for (int64_t step = 1; step <= kSteps; ++step)
      adamw_update(bench.exec, {.beta2 = beta2, .step = step},
                   bench.normal("gradient " + std::to_string(step), {kSize}, 1), weight, m, v);
    means[dtype == DType::bf16] = mean_of(v);
  }
  return means[1] / means[0];
}

// Why a recipe with moments in BF16 may not have a beta2 above 0.99 (train/recipe.cc).
TEST(AdamW, Bf16SecondMomentsCannotFollowSlowAverages) {
  EXPECT_NEAR(second_moment_ratio(0.95), 1, 0.01);
  EXPECT_NEAR(second_moment_ratio(0.98), 1, 0.01);
  EXPECT_NEAR(second_moment_ratio(0.99), 1.04, 0.02);
  EXPECT_GT(second_moment_ratio(0.999), 1.2);
}

// The first step by hand: m̂ = g and v̂ = g², so the weight moves by learning_rate · (sign(g) + weight_decay ·
// w).
TEST(AdamW, FirstStepIsTheSignOfTheGradient) {
  for (Device device : {Device::reference, Device::cpu}) {
    Workbench bench(device, DType::f32);
    const Tensor weight = bench.empty({2}), gradient = bench.empty({2}), m = bench.zeros({2}),
                 v = bench.zeros({2});
    std::ranges::copy(std::vector<float>{1, -2}, weight.data<float>());
    std::ranges::copy(std::vector<float>{0.5f, -3}, gradient.data<float>());
    adamw_update(bench.exec, {.learning_rate = 0.1, .weight_decay = 0.5, .step = 1, .gradient_scale = 2},
                 gradient, weight, m, v);
    EXPECT_NEAR(weight.data<float>()[0], 1 - 0.1 * (1 + 0.5), 1e-6) << device_name(device);
    EXPECT_NEAR(weight.data<float>()[1], -2 - 0.1 * (-1 - 1.0), 1e-6) << device_name(device);
    EXPECT_NEAR(m.data<float>()[0], 0.1 * 1, 1e-7) << device_name(device);
    EXPECT_NEAR(v.data<float>()[1], 0.05 * 36, 1e-6) << device_name(device);
  }
}

TEST(AdamWReference, SquaresAddUp) {
  Workbench bench(Device::reference, DType::f64);
  const Tensor x = bench.normal("x", {10000}), squares = bench.empty({3});
  squares_of_blocks(bench.exec, x, squares);
  const std::span<double> blocks = squares.span<double>();
  EXPECT_NEAR(std::accumulate(blocks.begin(), blocks.end(), 0.0), dot(x, x), 1e-8);
}

}  // namespace
}  // namespace moray
