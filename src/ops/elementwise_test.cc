#include "ops/elementwise.h"

#include <gtest/gtest.h>

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
}

INSTANTIATE_TEST_SUITE_P(Shapes, Elementwise,
                         testing::Values(std::tuple{1, 1, 1}, std::tuple{1, 129, 2}, std::tuple{127, 13, 61},
                                         std::tuple{257, 128, 127}, std::tuple{128, 3, 257}));

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
