#include "ops/elementwise.h"

#include <gtest/gtest.h>

#include <bit>

#include "ops/tolerances.h"
#include "tests/support/workbench.h"

namespace moray {
namespace {

class Elementwise : public testing::TestWithParam<std::tuple<int64_t, int64_t, int64_t>> {};

TEST_P(Elementwise, AgreesWithReference) {
  const auto [rows, left, right] = GetParam();
  const OpCase op = [T = rows, A = left, B = right](Workbench& bench) {
    const Tensor a = bench.normal("a", {T, A}), b = bench.normal("b", {T, B}), c = bench.normal("c", {T, A});
    const Tensor sum = bench.empty({T, A}), in_place = bench.normal("c", {T, A}),
                 both = bench.empty({T, A + B});
    const Tensor a_again = bench.empty({T, A}), b_again = bench.empty({T, B});
    add(bench.exec, a, c, sum);
    add(bench.exec, a, in_place, in_place);
    concat_columns(bench.exec, a, b, both);
    split_columns(bench.exec, both, a_again, b_again);
    return NamedOutputs{
        {"sum", sum}, {"sum in place", in_place}, {"both", both}, {"a", a_again}, {"b", b_again}};
  };
  expect_close(tolerance::kElementwise, op);
  expect_reference_bits(op);
  expect_same_bits_on_threads(op);
  expect_close_bf16(tolerance::kToBf16, op);
  expect_reference_bf16_bits(op);
  expect_same_bf16_bits_on_threads(op);
}

INSTANTIATE_TEST_SUITE_P(Shapes, Elementwise,
                         testing::Values(std::tuple{1, 1, 1}, std::tuple{1, 129, 2}, std::tuple{127, 13, 61},
                                         std::tuple{257, 128, 127}, std::tuple{128, 3, 257}));

// Every upper half of an f32 with lower halves around the middle: the rounding of dtype.h, ties to even.
TEST(Elementwise, ConvertsAsTheScalarRounds) {
  for (Device device : {Device::reference, Device::cpu}) {
    Workbench bench(device, DType::f32);
    const std::vector<uint32_t> lower = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};
    const int64_t count = 65536 * static_cast<int64_t>(lower.size());
    const Tensor wide = bench.empty({count}), back = bench.empty({count});
    const Tensor narrow = Tensor::empty(*bench.exec.allocator, {count}, DType::bf16);
    for (size_t i = 0; i < static_cast<size_t>(count); ++i)
      wide.span<float>()[i] =
          std::bit_cast<float>(static_cast<uint32_t>(i / lower.size()) << 16 | lower[i % lower.size()]);
    convert(bench.exec, wide, narrow);
    convert(bench.exec, narrow, back);
    for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
      const bf16 expected = to_bf16(wide.span<float>()[i]);
      ASSERT_EQ(narrow.span<bf16>()[i].bits, expected.bits) << device_name(device) << " " << i;
      ASSERT_EQ(std::bit_cast<uint32_t>(back.span<float>()[i]), uint32_t{expected.bits} << 16);
    }
  }
}

// The order of the halves by hand, and that splitting is the inverse.
TEST(Elementwise, RowsKeepTheirHalvesInOrder) {
  for (Device device : {Device::reference, Device::cpu}) {
    Workbench bench(device, DType::f32);
    const Tensor a = bench.empty({2, 1}), b = bench.empty({2, 2}), both = bench.empty({2, 3});
    std::ranges::copy(std::vector<float>{1, 2}, a.data<float>());
    std::ranges::copy(std::vector<float>{3, 4, 5, 6}, b.data<float>());
    concat_columns(bench.exec, a, b, both);
    EXPECT_TRUE(std::ranges::equal(both.span<float>(), std::vector<float>{1, 3, 4, 2, 5, 6}));
    a.fill_zero();
    b.fill_zero();
    split_columns(bench.exec, both, a, b);
    EXPECT_TRUE(std::ranges::equal(a.span<float>(), std::vector<float>{1, 2}));
    EXPECT_TRUE(std::ranges::equal(b.span<float>(), std::vector<float>{3, 4, 5, 6}));
  }
}

}  // namespace
}  // namespace moray
