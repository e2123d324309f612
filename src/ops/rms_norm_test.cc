// T rows, D width, G gradient groups.
#include "ops/rms_norm.h"

#include <gtest/gtest.h>

#include <cmath>

#include "ops/tolerances.h"
#include "tests/support/gradient_check.h"
#include "tests/support/workbench.h"

namespace moray {
namespace {

constexpr double kEps = 1e-6;

struct NormCase {
  int64_t samples, rows_per_sample, width, groups;
};

void PrintTo(const NormCase& c, std::ostream* os) {
  *os << c.samples << "x" << c.rows_per_sample << " rows of " << c.width << ", G " << c.groups;
}

class RmsNorm : public testing::TestWithParam<NormCase> {};

TEST_P(RmsNorm, AgreesWithReference) {
  const auto [samples, rows_per_sample, width, groups] = GetParam();
  const SampleRows rows{samples, rows_per_sample, 1, groups};
  const OpCase op = [&, D = width, G = groups](Workbench& bench) {
    const int64_t T = rows.rows();
    const Tensor x = bench.normal("x", {T, D}, 3), w = bench.wide("w", {D}, 0.3, 1),
                 dy = bench.normal("dy", {T, D});
    const Tensor y = bench.empty({T, D}), rstd = bench.empty_wide({T});
    const Tensor dx = bench.empty({T, D}), more = bench.normal("dx", {T, D}), dw = bench.wide("dw", {G, D});
    rms_norm_forward(bench.exec, x, w, kEps, y, rstd);
    rms_norm_backward_input(bench.exec, dy, x, w, rstd, dx);
    rms_norm_backward_input(bench.exec, dy, x, w, rstd, more, /*accumulate=*/true);
    rms_norm_backward_weight(bench.exec, dy, x, rstd, rows, dw);
    return NamedOutputs{{"y", y}, {"rstd", rstd}, {"dx", dx}, {"dx accumulated", more}, {"dw", dw}};
  };
  expect_close(tolerance::kRmsNorm, op);
  expect_same_bits_on_threads(op);
  expect_close_bf16(tolerance::kToBf16, op);
  expect_same_bf16_bits_on_threads(op);
}

// Every rounding of these is fixed by the header: 16 lanes along a row, blocks of 128 along rows.
TEST_P(RmsNorm, HasReferenceBits) {
  const auto [samples, rows_per_sample, width, groups] = GetParam();
  const SampleRows rows{samples, rows_per_sample, 1, groups};
  const OpCase op = [&, D = width, G = groups](Workbench& bench) {
    const int64_t T = rows.rows();
    const Tensor x = bench.normal("x", {T, D}, 3), w = bench.wide("w", {D}, 0.3, 1),
                 dy = bench.normal("dy", {T, D});
    const Tensor y = bench.empty({T, D}), rstd = bench.empty_wide({T}), dw = bench.wide("dw", {G, D});
    rms_norm_forward(bench.exec, x, w, kEps, y, rstd);
    rms_norm_backward_weight(bench.exec, dy, x, rstd, rows, dw);
    return NamedOutputs{{"y", y}, {"rstd", rstd}, {"dw", dw}};
  };
  expect_reference_bits(op);
  expect_reference_bf16_bits(op);
}

INSTANTIATE_TEST_SUITE_P(Shapes, RmsNorm,
                         testing::Values(NormCase{1, 1, 2, 1}, NormCase{1, 1, 257, 1}, NormCase{3, 43, 13, 2},
                                         NormCase{2, 127, 128, 1}, NormCase{1, 129, 127, 1},
                                         NormCase{4, 2, 129, 3}, NormCase{2, 257, 61, 2}));

TEST(RmsNormReference, GivesRowsOfUnitMeanSquare) {
  Workbench bench(Device::reference, DType::f64);
  const Tensor x = bench.normal("x", {3, 37}, 5), w = bench.empty({37}), y = bench.empty({3, 37});
  const Tensor rstd = bench.empty({3});
  std::ranges::fill(w.span<double>(), 1.0);
  rms_norm_forward(bench.exec, x, w, kEps, y, rstd);
  for (int64_t t = 0; t < 3; ++t) {
    EXPECT_NEAR(dot(y.row(t), y.row(t)) / 37, 1, 1e-6);
    EXPECT_NEAR(y.row(t).data<double>()[7] / x.row(t).data<double>()[7], rstd.data<double>()[t], 1e-15);
  }
}

TEST(RmsNormOverflow, OfTheSquaresIsNaN) {
  for (const Device device : {Device::reference, Device::cpu}) {
    Workbench bench(device, DType::f32);
    const Tensor x = bench.normal("x", {2, 40}), w = bench.wide("w", {40}), y = bench.empty({2, 40}),
                 rstd = bench.empty_wide({2});
    x.data<float>()[3] = 1e25f;
    rms_norm_forward(bench.exec, x, w, kEps, y, rstd);
    EXPECT_TRUE(std::isnan(rstd.data<float>()[0]));
    EXPECT_TRUE(std::isnan(y.data<float>()[39]));
    EXPECT_TRUE(std::isfinite(rstd.data<float>()[1]));
    EXPECT_TRUE(std::isfinite(y.data<float>()[40]));
  }
}

TEST(RmsNormReference, Gradients) {
  Workbench bench(Device::reference, DType::f64);
  const SampleRows rows{2, 3, 0, 1};
  const Tensor x = bench.normal("x", {6, 7}), w = bench.normal("w", {7}), dy = bench.normal("dy", {6, 7});
  const Tensor y = bench.empty({6, 7}), rstd = bench.empty({6}), dx = bench.empty({6, 7}),
               dw = bench.zeros({1, 7});
  const auto loss = [&] {
    rms_norm_forward(bench.exec, x, w, 1e-2, y, rstd);
    return dot(y, dy);
  };
  loss();
  rms_norm_backward_input(bench.exec, dy, x, w, rstd, dx);
  rms_norm_backward_weight(bench.exec, dy, x, rstd, rows, dw);
  expect_gradients({{"x", x, dx}, {"w", w, dw.row(0)}}, loss);
}

}  // namespace
}  // namespace moray
