// T tokens (rows), I inputs, O outputs, R expert rows, E experts, G gradient groups.
#include "ops/matmul_fp8.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/test_help.h"
#include "ops/matmul.h"
#include "ops/tensor_core.h"
#include "tests/support/workbench.h"

namespace moray {
namespace {

struct Case {
  CodeFormat format = CodeFormat::f8_e4m3;
  ScaleFormat scale_format = ScaleFormat::power_of_two;
};

class MatmulFp8 : public testing::Test {
 protected:
  // A matrix whose tiles differ in size by orders of magnitude, quantized.
  QuantizedTensor quantized(const char* name, Shape shape, Tiling tiling, Case c, const Tensor& blocks = {}) {
    const Tensor x = bench_.normal(name, shape);
    const int64_t columns = shape[-1];
    for (int64_t i = 0; i < x.elements(); ++i)
      x.data<float>()[i] *= std::exp2(static_cast<float>((i % columns / 50 * 3 + i / columns / 40 * 5) % 17));
    const QuantizedTensor q =
        QuantizedTensor::empty(*bench_.exec.allocator, shape, c.format, tiling, c.scale_format, blocks);
    EXPECT_FALSE(quantize(bench_.exec, x, q).any());
    return q;
  }
  Tensor values(const QuantizedTensor& q) {
    const Tensor x = bench_.empty(q.shape);
    dequantize(bench_.exec, q, x);
    return x;
  }
  // Powers of two commute with every rounding: scaling at promotion then gives the bits of a product of
  // scaled operands. Other scales round: within a few units of FP32's last place.
  void expect_product(const Tensor& got, const Tensor& expected, ScaleFormat scale_format) {
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < got.elements(); ++i) {
      const double a = static_cast<double>(got.data<float>()[i]),
                   b = static_cast<double>(expected.data<float>()[i]);
      difference += (a - b) * (a - b);
      norm += b * b;
    }
    if (scale_format == ScaleFormat::power_of_two)
      EXPECT_EQ(difference, 0);
    else
      EXPECT_LE(std::sqrt(difference), 1e-6 * std::sqrt(norm));
    EXPECT_GT(norm, 0);
  }

  Workbench bench_{Device::reference, DType::f32};
  const std::vector<Case> cases_ = {{CodeFormat::f8_e4m3, ScaleFormat::power_of_two},
                                    {CodeFormat::f8_e4m3, ScaleFormat::fp32},
                                    {CodeFormat::f8_e5m2, ScaleFormat::power_of_two},
                                    {CodeFormat::f12_e5m6, ScaleFormat::fp32},
                                    {CodeFormat::f12_e5m6, ScaleFormat::power_of_two}};
};

TEST_F(MatmulFp8, DenseProductsAreThoseOfTheDequantizedOperands) {
  const SampleRows rows = {3, 150, 1, 2};
  const int64_t T = rows.rows(), I = 141, O = 133;
  const Tensor blocks = row_blocks(*bench_.exec.allocator, rows);
  for (Case c : cases_) {
    const QuantizedTensor x = quantized("x", {T, I}, Tiling::row_tiles, c);
    const QuantizedTensor dy = quantized("dy", {T, O}, Tiling::row_tiles, c);
    const QuantizedTensor w = quantized("w", {O, I}, Tiling::blocks, c);
    const QuantizedTensor x_tokens = quantized("x", {T, I}, Tiling::token_tiles, c, blocks);
    const QuantizedTensor dy_tokens = quantized("dy", {T, O}, Tiling::token_tiles, c, blocks);
    const Tensor y = bench_.empty({T, O}), dx = bench_.empty({T, I}), more = bench_.normal("more", {T, I});
    const Tensor dw = bench_.normal("dw", {2, O, I});
    const Tensor y2 = bench_.empty({T, O}), dx2 = bench_.empty({T, I}), more2 = bench_.normal("more", {T, I});
    const Tensor dw2 = bench_.normal("dw", {2, O, I});
    matmul_fp8_forward(bench_.exec, x, w, y);
    matmul_fp8_backward_input(bench_.exec, dy, w, dx);
    matmul_fp8_backward_input(bench_.exec, dy, w, more, true);
    matmul_fp8_backward_weight(bench_.exec, dy_tokens, x_tokens, rows, dw);
    matmul_forward(bench_.exec, values(x), values(w), y2);
    matmul_backward_input(bench_.exec, values(dy), values(w), dx2);
    matmul_backward_input(bench_.exec, values(dy), values(w), more2, true);
    matmul_backward_weight(bench_.exec, values(dy_tokens), values(x_tokens), rows, dw2);
    expect_product(y, y2, c.scale_format);
    expect_product(dx, dx2, c.scale_format);
    expect_product(more, more2, c.scale_format);
    expect_product(dw, dw2, c.scale_format);
  }
}

TEST_F(MatmulFp8, GroupedProductsAreThoseOfTheDequantizedOperands) {
  const ExpertRows rows = {bench_.ints({9}, {0, 5, 136, 136, 136, 137, 137, 266, 270}), 4, 2};
  const int64_t R = 270, I = 61, O = 130, E = 4;
  const Tensor blocks = row_blocks(*bench_.exec.allocator, rows);
  for (Case c : cases_) {
    const QuantizedTensor x = quantized("x", {R, I}, Tiling::row_tiles, c);
    const QuantizedTensor dy = quantized("dy", {R, O}, Tiling::row_tiles, c);
    const QuantizedTensor w = quantized("w", {E, O, I}, Tiling::blocks, c);
    const QuantizedTensor x_tokens = quantized("x", {R, I}, Tiling::token_tiles, c, blocks);
    const QuantizedTensor dy_tokens = quantized("dy", {R, O}, Tiling::token_tiles, c, blocks);
    const Tensor y = bench_.empty({R, O}), dx = bench_.normal("dx", {R, I}),
                 dw = bench_.normal("dw", {E, O, I});
    const Tensor y2 = bench_.empty({R, O}), dx2 = bench_.normal("dx", {R, I}),
                 dw2 = bench_.normal("dw", {E, O, I});
    grouped_matmul_fp8_forward(bench_.exec, x, w, rows, y);
    grouped_matmul_fp8_backward_input(bench_.exec, dy, w, rows, dx, true);
    grouped_matmul_fp8_backward_weight(bench_.exec, dy_tokens, x_tokens, rows, dw);
    grouped_matmul_forward(bench_.exec, values(x), values(w), rows, y2);
    grouped_matmul_backward_input(bench_.exec, values(dy), values(w), rows, dx2, true);
    grouped_matmul_backward_weight(bench_.exec, values(dy_tokens), values(x_tokens), rows, dw2);
    expect_product(y, y2, c.scale_format);
    expect_product(dx, dx2, c.scale_format);
    expect_product(dw, dw2, c.scale_format);
  }
}

// The scales' product is rounded to f32; it meets sum and part in one fma.
TEST_F(MatmulFp8, ScalesAreMultipliedFirstAndJoinByFma) {
  const Case c{CodeFormat::f8_e4m3, ScaleFormat::fp32};
  const QuantizedTensor dy = quantized("dy", {1, 1}, Tiling::row_tiles, c),
                        w = quantized("w", {1, 1}, Tiling::blocks, c);
  const Tensor dx = bench_.empty({1, 1});
  const auto scale = [](int thirds) { return 1.0f + static_cast<float>(thirds) / 3; };
  dy.codes.data<e4m3>()[0] = narrow<e4m3>(1.375f);
  w.codes.data<e4m3>()[0] = narrow<e4m3>(1.125f);
  const float part = 1.375f * 1.125f, before = 0.7f;
  int other_scales = 0, other_sums = 0;
  for (int i = 1; i < 30; ++i) {
    const float a = scale(i), b = scale(i + 1), both = a * b, product = both * part;
    dy.scales.data<float>()[0] = a;
    w.scales.data<float>()[0] = b;
    dx.data<float>()[0] = before;
    matmul_fp8_backward_input(bench_.exec, dy, w, dx, true);
    const float expected = std::fma(both, part, before);
    EXPECT_EQ(dx.data<float>()[0], expected);
    other_scales += expected != std::fma(a * 1.375f, b * 1.125f, before);
    other_sums += expected != product + before;
  }
  EXPECT_GT(other_scales, 0);  // so each other order would be seen
  EXPECT_GT(other_sums, 0);
}

TEST_F(MatmulFp8, WeightGradientsAddUpOverMicroBatches) {
  const Case c{CodeFormat::f8_e4m3, ScaleFormat::fp32};
  const int64_t rows = 137, I = 19, O = 23;
  const Tensor blocks = row_blocks(*bench_.exec.allocator, SampleRows{5, rows, 0, 2});
  const QuantizedTensor x = quantized("x", {5 * rows, I}, Tiling::token_tiles, c, blocks);
  const QuantizedTensor dy = quantized("dy", {5 * rows, O}, Tiling::token_tiles, c, blocks);
  const Tensor whole = bench_.zeros({2, O, I}), pieces = bench_.zeros({2, O, I});
  matmul_fp8_backward_weight(bench_.exec, dy, x, {5, rows, 0, 2}, whole);
  for (auto [begin, end] : {std::pair<int64_t, int64_t>{0, 2}, {2, 3}, {3, 5}})
    matmul_fp8_backward_weight(bench_.exec, dy.row_slice(begin * rows, end * rows, *bench_.exec.allocator),
                               x.row_slice(begin * rows, end * rows, *bench_.exec.allocator),
                               {end - begin, rows, begin, 2}, pieces);
  EXPECT_TRUE(std::ranges::equal(whole.span<float>(), pieces.span<float>()));
}

TEST_F(MatmulFp8, TilesOfOtherRowsAreRefused) {
  const SampleRows rows = {2, 150, 0, 1};
  const Case c;
  const Tensor right = row_blocks(*bench_.exec.allocator, rows);
  const Tensor wrong = row_blocks(*bench_.exec.allocator, SampleRows{1, 300, 0, 1});
  const QuantizedTensor x = quantized("x", {300, 8}, Tiling::token_tiles, c, wrong);
  const QuantizedTensor dy = quantized("dy", {300, 8}, Tiling::token_tiles, c, right);
  const Tensor dw = bench_.zeros({1, 8, 8});
  EXPECT_DEATH(matmul_fp8_backward_weight(bench_.exec, dy, x, rows, dw),
               "token tiles of x are not the row blocks");
}

TEST_F(MatmulFp8, AMissingKernelIsNamed) {
  Workbench cpu(Device::cpu, DType::f32);
  const MatmulFp8Kernels before = std::exchange(kernels<MatmulFp8Kernels>(Device::cpu), {});
  const QuantizedTensor x = quantized("x", {2, 8}, Tiling::row_tiles, {}),
                        w = quantized("w", {3, 8}, Tiling::blocks, {});
  EXPECT_EQ(test::error_of([&] {
              matmul_fp8_forward(cpu.exec, x, w, bench_.empty({2, 3}));
            }),
            "[matmul_fp8_forward] no kernel for device cpu");
  kernels<MatmulFp8Kernels>(Device::cpu) = before;
}

// Powers of two commute with every cut: the products are then TensorCoreSum's of the dequantized operands,
// promoted with each block.
TEST_F(MatmulFp8, AsATensorCoreSums) {
  const SampleRows rows = {2, 150, 0, 1};
  const int64_t T = rows.rows(), I = 141, O = 37;
  const Case c;
  const Tensor blocks = row_blocks(*bench_.exec.allocator, rows);
  const QuantizedTensor x = quantized("x", {T, I}, Tiling::row_tiles, c),
                        dy = quantized("dy", {T, O}, Tiling::row_tiles, c),
                        w = quantized("w", {O, I}, Tiling::blocks, c),
                        x_tokens = quantized("x", {T, I}, Tiling::token_tiles, c, blocks),
                        dy_tokens = quantized("dy", {T, O}, Tiling::token_tiles, c, blocks);
  // Σ over the blocks of elements a(k) and b(k), k of `lengths`.
  const auto sum = [](const TensorCore& core, const std::vector<int64_t>& lengths, const auto& a,
                      const auto& b) {
    float run = 0;
    int64_t k = 0;
    for (int64_t length : lengths) {
      std::vector<float> a_k, b_k;
      for (const int64_t end = k + length; k < end; ++k) a_k.push_back(a(k)), b_k.push_back(b(k));
      TensorCoreSum block(core);
      block.add(a_k.data(), b_k.data(), length);
      run += block.value();
    }
    return run;
  };
  const auto at = [&](const QuantizedTensor& q) {
    return [values = values(q), columns = q.columns()](int64_t row, int64_t column) {
      return values.data<float>()[row * columns + column];
    };
  };
  const auto x_at = at(x), dy_at = at(dy), w_at = at(w), x_token_at = at(x_tokens),
             dy_token_at = at(dy_tokens);
  for (const TensorCore& core : {TensorCore{14, false, 128}, TensorCore{10, true, 0}}) {
    bench_.exec.tensor_core = &core;
    const Tensor y = bench_.empty({T, O}), dx = bench_.empty({T, I}), dw = bench_.zeros({1, O, I});
    matmul_fp8_forward(bench_.exec, x, w, y);
    matmul_fp8_backward_input(bench_.exec, dy, w, dx);
    matmul_fp8_backward_weight(bench_.exec, dy_tokens, x_tokens, rows, dw);
    bench_.exec.tensor_core = nullptr;
    for (int64_t t = 0; t < T; t += 29)
      for (int64_t o = 0; o < O; ++o)
        ASSERT_EQ(y.data<float>()[t * O + o], sum(
                                                  core, {128, 13}, [&](int64_t k) { return x_at(t, k); },
                                                  [&](int64_t k) { return w_at(o, k); }));
    for (int64_t t = 0; t < T; t += 29)
      for (int64_t i = 0; i < I; ++i)
        ASSERT_EQ(dx.data<float>()[t * I + i], sum(
                                                   core, {O}, [&](int64_t k) { return dy_at(t, k); },
                                                   [&](int64_t k) { return w_at(k, i); }));
    for (int64_t o = 0; o < O; o += 5)
      for (int64_t i = 0; i < I; i += 3)
        ASSERT_EQ(dw.data<float>()[o * I + i],
                  sum(
                      core, {128, 22, 128, 22}, [&](int64_t k) { return dy_token_at(k, o); },
                      [&](int64_t k) { return x_token_at(k, i); }));
    const Tensor exact = bench_.empty({T, O});
    matmul_fp8_forward(bench_.exec, x, w, exact);
    EXPECT_FALSE(std::ranges::equal(exact.span<float>(), y.span<float>()));
  }
}

}  // namespace
}  // namespace moray
