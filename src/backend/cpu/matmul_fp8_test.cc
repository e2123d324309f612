// FP8 products against the scalar reference, bit for bit, on every instruction set and thread count: ragged
// shapes, empty experts, data of all sizes.
#include "ops/matmul_fp8.h"

#include <gtest/gtest.h>

#include "backend/cpu/kernels_test.h"
#include "backend/register.h"

namespace moray::cpu::test {
namespace {

enum class Data { random, outliers, zeros, subnormal, with_nan };

struct Case {
  Data data = Data::random;
  CodeFormat format = CodeFormat::f8_e4m3;
  ScaleFormat scales = ScaleFormat::fp32;
  DType output = DType::f32;
};

Tensor values(Shape shape, uint64_t stream, Data data) {
  const Tensor x = random_tensor(shape, stream, data == Data::subnormal ? 1e-41 : 1);
  const int64_t columns = shape[-1];
  for (int64_t i = 0; i < x.elements(); ++i) {
    float& value = x.data<float>()[i];
    if (data == Data::outliers)
      value *= i % 97 == 0 ? 3e4f : std::exp2(static_cast<float>(i / columns % 30 - 15));
    if (data == Data::zeros && i / columns % 3 != 0) value = 0;
  }
  return x;
}

class Products {
 public:
  Products(Case which, int64_t inputs, int64_t outputs) : case_(which), inputs_(inputs), outputs_(outputs) {
    register_backends();
  }

  // y, dx, dx on top of something, dw; on the reference, then everywhere else.
  void check_dense(const SampleRows& rows) {
    prepare(rows.rows(), {outputs_, inputs_}, row_blocks(allocator(), rows));
    expect_equal([&](Exec& exec) {
      Outputs out = outputs(rows.rows(), {rows.gradient_groups, outputs_, inputs_});
      matmul_fp8_forward(exec, x_, w_, out.y);
      matmul_fp8_backward_input(exec, dy_, w_, out.dx);
      matmul_fp8_backward_input(exec, dy_, w_, out.more, /*accumulate=*/true);
      matmul_fp8_backward_weight(exec, dy_tokens_, x_tokens_, rows, out.dw);
      return std::vector<Tensor>{out.y, out.dx, out.more, out.dw};
    });
  }
  void check_grouped(const ExpertRows& rows) {
    const int64_t total = rows.end(rows.experts - 1);
    prepare(total, {rows.experts, outputs_, inputs_}, row_blocks(allocator(), rows));
    expect_equal([&](Exec& exec) {
      Outputs out = outputs(total, {rows.experts, outputs_, inputs_});
      grouped_matmul_fp8_forward(exec, x_, w_, rows, out.y);
      grouped_matmul_fp8_backward_input(exec, dy_, w_, rows, out.dx);
      grouped_matmul_fp8_backward_input(exec, dy_, w_, rows, out.more, /*accumulate=*/true);
      grouped_matmul_fp8_backward_weight(exec, dy_tokens_, x_tokens_, rows, out.dw);
      return std::vector<Tensor>{out.y, out.dx, out.more, out.dw};
    });
  }

 private:
  struct Outputs {
    Tensor y, dx, more, dw;
  };

  Tensor output(Shape shape, uint64_t stream) {
    const Tensor wide = random_tensor(shape, stream);
    if (case_.output == DType::f32) return wide;
    const Tensor narrow = Tensor::empty(allocator(), shape, DType::bf16);
    for (int64_t i = 0; i < wide.elements(); ++i) narrow.data<bf16>()[i] = to_bf16(wide.data<float>()[i]);
    return narrow;
  }
  Outputs outputs(int64_t rows, Shape dw) {
    return {output({rows, outputs_}, 5), output({rows, inputs_}, 6), output({rows, inputs_}, 7),
            random_tensor(dw, 8)};
  }

  QuantizedTensor quantized(const Tensor& x, Tiling tiling, const Tensor& blocks = {}) {
    const QuantizedTensor q =
        QuantizedTensor::empty(allocator(), x.shape(), case_.format, tiling, case_.scales, blocks);
    ThreadPool pool(1);
    Exec exec{Device::reference, &pool, &allocator(), DType::f32};
    EXPECT_FALSE(quantize(exec, x, q).any());
    if (case_.data == Data::with_nan) q.codes.raw()[q.codes.bytes() / 3] = std::byte{0xff};
    return q;
  }
  void prepare(int64_t rows, Shape weight, const Tensor& blocks) {
    const Tensor x = values({rows, inputs_}, 1, case_.data), dy = values({rows, outputs_}, 2, case_.data);
    x_ = quantized(x, Tiling::row_tiles);
    dy_ = quantized(dy, Tiling::row_tiles);
    x_tokens_ = quantized(x, Tiling::token_tiles, blocks);
    dy_tokens_ = quantized(dy, Tiling::token_tiles, blocks);
    w_ = quantized(values(weight, 3, case_.data), Tiling::blocks);
  }

  void expect_equal(const std::function<std::vector<Tensor>(Exec&)>& compute) {
    ThreadPool pool(1);
    Exec exec{Device::reference, &pool, &allocator(), DType::f32};
    const std::vector<Tensor> expected = compute(exec), got = same_everywhere(compute);
    for (size_t n = 0; n < expected.size(); ++n) expect_same_numbers(got[n], expected[n], n);
  }
  // Bits, but for those of a NaN.
  static void expect_same_numbers(const Tensor& got, const Tensor& expected, size_t n) {
    if (same_bits(got, expected)) return;
    const auto number = [](const Tensor& x, int64_t i) {
      return x.dtype() == DType::bf16 ? to_float(x.data<bf16>()[i]) : x.data<float>()[i];
    };
    for (int64_t i = 0; i < got.elements(); ++i) {
      const float a = number(got, i), b = number(expected, i);
      ASSERT_TRUE(std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) ||
                  (std::isnan(a) && std::isnan(b)))
          << "result " << n << " element " << i << ": " << a << ", expected " << b;
    }
  }

  Case case_;
  int64_t inputs_, outputs_;
  QuantizedTensor x_, dy_, x_tokens_, dy_tokens_, w_;
};

TEST(MatmulFp8Cpu, DenseHasTheReferencesBits) {
  for (const Case which :
       {Case{}, Case{Data::outliers}, Case{Data::zeros}, Case{Data::subnormal},
        Case{Data::outliers, CodeFormat::f8_e4m3, ScaleFormat::power_of_two, DType::bf16}}) {
    Products(which, 141, 133).check_dense({3, 150, 1, 2});
    Products(which, 257, 48).check_dense({1, 1, 0, 1});
    Products(which, 64, 300).check_dense({5, 3, 0, 1});  // short blocks
  }
}

TEST(MatmulFp8Cpu, OtherFormatsTooAndNanStays) {
  Products({Data::random, CodeFormat::f8_e5m2}, 141, 33).check_dense({2, 130, 0, 1});
  Products({Data::random, CodeFormat::f12_e5m6, ScaleFormat::power_of_two}, 141, 33)
      .check_dense({2, 130, 0, 1});
  Products({Data::with_nan}, 141, 33).check_dense({2, 130, 0, 1});
}

TEST(MatmulFp8Cpu, GroupedHasTheReferencesBits) {
  for (const Case which :
       {Case{}, Case{Data::outliers, CodeFormat::f8_e4m3, ScaleFormat::fp32, DType::bf16}}) {
    const auto rows = [](std::vector<int32_t> offsets, int64_t experts, int64_t samples) {
      return ExpertRows{i32_tensor(offsets, {experts * samples + 1}), experts, samples};
    };
    Products(which, 61, 130).check_grouped(rows({0, 5, 136, 136, 136, 137, 137, 266, 270}, 4, 2));
    Products(which, 140, 31).check_grouped(rows({0, 0, 0, 1, 3, 3, 7, 9, 9, 12}, 3, 3));  // short blocks
    Products(which, 33, 9).check_grouped(rows({0, 0, 0, 0, 150}, 4, 1));
  }
}

// Large enough to be packed once for all tasks.
TEST(MatmulFp8Cpu, ManyRowsHaveTheReferencesBits) {
  Products({Data::outliers}, 520, 300).check_dense({2, 300, 0, 1});
}

}  // namespace
}  // namespace moray::cpu::test
