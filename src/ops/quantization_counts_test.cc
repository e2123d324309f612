#include "ops/quantization_counts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/cpu/register.h"
#include "base/random.h"
#include "tests/support/workbench.h"

namespace moray {
namespace {

class QuantizationCountsTest : public testing::TestWithParam<Device> {
 protected:
  static void SetUpTestSuite() { cpu::register_kernels(); }

  Workbench bench_{GetParam(), DType::f32};

  Tensor tensor(Shape shape) { return Tensor::zeros(*bench_.exec.allocator, shape, DType::f32); }
  QuantizedTensor codes(Shape shape, CodeFormat format, Tiling tiling, const Tensor& blocks = {}) {
    return QuantizedTensor::empty(*bench_.exec.allocator, shape, format, tiling, ScaleFormat::fp32, blocks);
  }
  CodeCounts counted(const Tensor& x, const QuantizedTensor& q) {
    QuantizationCounts counts;
    bench_.exec.quantization = &counts;
    quantize_counted(bench_.exec, TensorClass::dispatch, x, q);
    bench_.exec.quantization = nullptr;
    for (size_t i = 0; i < kTensorClasses; ++i)
      EXPECT_EQ(counts.classes[i].elements > 0, static_cast<TensorClass>(i) == TensorClass::dispatch) << i;
    return counts.of(TensorClass::dispatch);
  }
};

TEST_P(QuantizationCountsTest, ByHand) {
  const Tensor x = tensor({2, 130});
  float* values = x.data<float>();
  values[0] = 448;                                      // scale 1
  values[1] = values[2] = 0x1p-10f;                     // the tie between 0 and the smallest code: even, 0
  values[3] = -0x1.01p-10f, values[4] = 0x1p-9f;        // codes ±1
  values[5] = -1e-30f;                                  // 0
  values[6] = std::numeric_limits<float>::quiet_NaN();  // not counted
  values[7] = -std::numeric_limits<float>::infinity();  // not counted
  values[128] = 1e-30f;                                 // a tile of its own: 448
  const QuantizedTensor q = codes({2, 130}, CodeFormat::f8_e4m3, Tiling::row_tiles);
  const CodeCounts counts = counted(x, q);
  EXPECT_EQ(counts.elements, 7);
  EXPECT_EQ(counts.underflow, 3);
  EXPECT_EQ(counts.saturated, 0);
  EXPECT_DOUBLE_EQ(counts.underflow_share(), 3.0 / 7);

  // Of other numbers the same codes would be wrong: 464 lies half a step beyond 448.
  values[4] = 463.9f;
  EXPECT_EQ(count_codes(bench_.exec, x, q).saturated, 0);
  values[4] = -464;
  EXPECT_EQ(count_codes(bench_.exec, x, q).saturated, 1);
}

// Against the dequantized numbers: what underflowed is what is 0 there.
TEST_P(QuantizationCountsTest, EveryTilingAndFormat) {
  const Shape shape{150, 200};
  const Tensor x = tensor(shape), back = tensor(shape), blocks = bench_.ints({3}, {0, 100, 150});
  Random random(3, 1);
  for (float& value : x.span<float>())
    value = static_cast<float>(random.normal() * std::exp2(-static_cast<double>(random.below(40))));
  for (CodeFormat format : {CodeFormat::f8_e4m3, CodeFormat::f8_e5m2, CodeFormat::f12_e5m6})
    for (Tiling tiling : {Tiling::row_tiles, Tiling::token_tiles, Tiling::blocks}) {
      const QuantizedTensor q =
          codes(shape, format, tiling, tiling == Tiling::token_tiles ? blocks : Tensor());
      const CodeCounts counts = counted(x, q);
      dequantize(bench_.exec, q, back);
      int64_t zeros = 0;
      for (float value : back.span<float>()) zeros += value == 0;
      EXPECT_EQ(counts.elements, x.elements());
      EXPECT_EQ(counts.underflow, zeros);
      EXPECT_GT(zeros, 0);
      EXPECT_EQ(counts.saturated, 0);
    }
}

TEST_P(QuantizationCountsTest, OfARetiling) {
  const Tensor x = tensor({128, 2});
  std::ranges::fill(x.span<float>(), 1.0f);
  x.data<float>()[2] = 0x1p-20f;  // alone with a zero in its row, among ones in its column
  x.data<float>()[3] = 0;
  const QuantizedTensor rows = codes({128, 2}, CodeFormat::f8_e4m3, Tiling::row_tiles),
                        tokens = codes({128, 2}, CodeFormat::f8_e4m3, Tiling::token_tiles,
                                       bench_.ints({2}, {0, 128}));
  EXPECT_EQ(counted(x, rows).underflow, 0);
  QuantizationCounts counts;
  bench_.exec.quantization = &counts;
  retile_counted(bench_.exec, TensorClass::linear_inputs, rows, tokens);
  EXPECT_EQ(counts.of(TensorClass::linear_inputs).elements, 255);
  EXPECT_EQ(counts.of(TensorClass::linear_inputs).underflow, 1);
}

INSTANTIATE_TEST_SUITE_P(Devices, QuantizationCountsTest, testing::Values(Device::reference, Device::cpu));

}  // namespace
}  // namespace moray
