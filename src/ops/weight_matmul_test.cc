// T rows, I inputs, O outputs.
#include "ops/weight_matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "ops/matmul.h"
#include "ops/tolerances.h"
#include "tests/support/weight_cases.h"
#include "tests/support/workbench.h"

namespace moray {
namespace {

class WeightMatmul : public testing::TestWithParam<WeightCase> {};

Tensor product(Workbench& bench, const WeightCase& c) {
  const Tensor x = bench.normal("x", {c.rows, c.inputs}), y = bench.empty({c.rows, c.outputs});
  weight_matmul(bench.exec, x, weight_of(c, bench), y);
  return y;
}

NamedOutputs product_of_case(Workbench& bench) {
  return {{"y", product(bench, WeightMatmul::GetParam())}};
}

TEST_P(WeightMatmul, AgreesWithReference) {
  on_every_instruction_set([] { expect_close(tolerance::kMatmul, product_of_case); });
}

TEST_P(WeightMatmul, HasTheReferencesBits) {
  on_every_instruction_set([] { expect_reference_bits(product_of_case); });
}

TEST_P(WeightMatmul, DoesNotDependOnThreads) {
  on_every_instruction_set([] { expect_same_bits_on_threads(product_of_case); });
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, WeightMatmul,
    testing::Values(WeightCase{DType::f32, 1, 300, 130}, WeightCase{DType::f32, 40, 128, 70},
                    WeightCase{DType::bf16, 1, 257, 200}, WeightCase{DType::bf16, 3, 512, 64},
                    WeightCase{DType::bf16, 4, 66, 17}, WeightCase{DType::bf16, 9, 300, 33},
                    WeightCase{DType::f8_e4m3, 1, 384, 256}, WeightCase{DType::f8_e4m3, 2, 130, 65, 100},
                    WeightCase{DType::f8_e4m3, 1, 7, 3}, WeightCase{DType::f8_e4m3, 6, 200, 140, 20},
                    WeightCase{DType::f8_e4m3, 70, 261, 150, 90}, WeightCase{DType::i8, 1, 384, 256},
                    WeightCase{DType::i8, 3, 130, 65, 100}, WeightCase{DType::i8, 40, 261, 70},
                    WeightCase{DType::i8, 1, 7, 3}, WeightCase{DType::u8, 1, 384, 256},
                    WeightCase{DType::u8, 2, 160, 65, 3}, WeightCase{DType::u8, 40, 288, 70},
                    WeightCase{DType::u8, 5, 32, 3}));

WeightCase panels(DType dtype, int64_t rows, int64_t inputs, int64_t outputs, int64_t first_row = 0) {
  return {dtype, rows, inputs, outputs, first_row, TensorLayout::panels};
}

INSTANTIATE_TEST_SUITE_P(
    Panels, WeightMatmul,
    testing::Values(panels(DType::f32, 1, 300, 128), panels(DType::f32, 40, 131, 80, 16),
                    panels(DType::bf16, 1, 258, 208, 32), panels(DType::bf16, 2, 130, 80),
                    panels(DType::bf16, 3, 512, 64), panels(DType::bf16, 4, 66, 16),
                    panels(DType::bf16, 9, 300, 48), panels(DType::bf16, 300, 512, 112),
                    panels(DType::f8_e4m3, 1, 384, 256), panels(DType::f8_e4m3, 2, 132, 64, 112),
                    panels(DType::f8_e4m3, 3, 260, 96), panels(DType::f8_e4m3, 4, 12, 16, 16),
                    panels(DType::f8_e4m3, 6, 200, 144, 16), panels(DType::f8_e4m3, 70, 264, 160, 80),
                    panels(DType::i8, 1, 260, 48, 16), panels(DType::i8, 4, 132, 80),
                    panels(DType::i8, 29, 300, 112), panels(DType::u8, 1, 448, 48, 32),
                    panels(DType::u8, 3, 64, 80), panels(DType::u8, 29, 320, 112)));

void expect_independent_rows() {
  for (DType dtype : {DType::f32, DType::bf16, DType::f8_e4m3, DType::i8, DType::u8}) {
    Workbench bench(Device::cpu, DType::f32, 2);
    const WeightCase c{dtype, 50, 256, 160};
    WeightCase in_panels = c;
    in_panels.layout = TensorLayout::panels;
    const Tensor x = bench.normal("x", {c.rows, c.inputs}), all = bench.empty({c.rows, c.outputs});
    weight_matmul(bench.exec, x, weight_of(c, bench), all);
    for (const WeightCase& weight_case : {c, in_panels}) {
      const StoredWeight w = weight_of(weight_case, bench);
      for (int64_t step : {1, 2, 3, 4, 7, 50}) {
        std::vector<WeightProduct> products;
        const Tensor y = bench.zeros(all.shape());
        for (int64_t t = 0; t < c.rows; t += step) {
          const int64_t end = std::min(t + step, c.rows);
          products.push_back({x.rows(t, end), w, y.rows(t, end)});
        }
        weight_matmul(bench.exec, products);
        EXPECT_TRUE(std::ranges::equal(y.span<float>(), all.span<float>()))
            << testing::PrintToString(weight_case) << " by " << step;
      }
      if (dtype != DType::f32 && dtype != DType::bf16) continue;
      const Tensor trained = bench.empty(all.shape());
      matmul_forward(bench.exec, x, w.values_OI, trained);
      EXPECT_TRUE(std::ranges::equal(trained.span<float>(), all.span<float>())) << dtype_name(dtype);
    }
  }
}

// One row or many, alone or in company, in rows or panels: the same bits, those of matmul_forward.
TEST(WeightMatmul, RowsDoNotDependOnEachOther) {
  on_every_instruction_set(expect_independent_rows);
}

void expect_products_by_hand() {
  for (Device device : {Device::reference, Device::cpu})
    for (bool bytes : {true, false}) {
      Workbench bench(device, DType::f32, 2);
      const Shape shape{1, bytes ? 160 : int4_row_bytes(160)};
      StoredWeight w{Tensor::empty(*bench.exec.allocator, shape, bytes ? DType::i8 : DType::u8),
                     bench.zeros({1, 2}), 0};
      // 4 bits: q = 5, s = 3, z = 0: 3·(10 − 7) = 9.
      std::fill_n(w.values_OI.raw(), w.values_OI.bytes(), std::byte{9});
      if (!bytes) {
        std::fill_n(w.values_OI.raw(), 80, std::byte{0x55});
        std::fill_n(w.values_OI.raw() + 80, 5, std::byte{0x03});
      }
      std::ranges::fill(w.scales.span<float>(), 2.0f);
      const Tensor x = bench.zeros({3, 160}), y = bench.empty({3, 1});
      x.data<float>()[0] = 254;  // scale 2: codes 127 and 25
      x.data<float>()[1] = 50;
      x.data<float>()[2] = 25;    // 12.5: to even, 12
      x.data<float>()[159] = -1;  // scale 1/127
      x.data<float>()[160] = std::numeric_limits<float>::quiet_NaN();
      weight_matmul(bench.exec, x, w, y);
      const float first = 4.0f * (127 + 25 + 12) * 9;
      EXPECT_EQ(y.data<float>()[0], std::fma(1.0f / 127 * 2, -127.0f * 9, first));
      EXPECT_TRUE(std::isnan(y.data<float>()[1]));
      EXPECT_EQ(y.data<float>()[2], 0);
    }
}

// By hand: integers 1 and scale 2 against x whose codes are known.
TEST(WeightMatmul, IntegerProductsAreWhatTheyAreSaidToBe) {
  on_every_instruction_set(expect_products_by_hand);
}

}  // namespace
}  // namespace moray
