// P positions, J pairs, T rows, W row width.
#include "ops/rope.h"

#include <gtest/gtest.h>

#include <cmath>

#include "ops/tolerances.h"
#include "tests/support/gradient_check.h"
#include "tests/support/workbench.h"

namespace moray {
namespace {

struct RopeCase {
  int64_t samples, rows_per_sample, heads, head_width, pairs;
};

void PrintTo(const RopeCase& c, std::ostream* os) {
  *os << c.samples << "x" << c.rows_per_sample << " rows, " << c.heads << " heads of " << c.head_width << ", "
      << c.pairs << " pairs";
}

struct Tables {
  Tensor cos_PJ, sin_PJ;
};

// Real angles, so that turning back is the inverse; rounded to f32 on every device alike.
Tables tables(Workbench& bench, int64_t positions, int64_t pairs) {
  const Tables t{bench.empty_wide({positions, pairs}), bench.empty_wide({positions, pairs})};
  for (int64_t i = 0; i < positions * pairs; ++i) {
    const double angle = static_cast<double>(i / pairs) *
                         std::pow(10000.0, -static_cast<double>(i % pairs) / static_cast<double>(pairs));
    const float cosine = static_cast<float>(std::cos(angle)), sine = static_cast<float>(std::sin(angle));
    if (bench.exec.dtype == DType::f64) {
      t.cos_PJ.data<double>()[i] = static_cast<double>(cosine);
      t.sin_PJ.data<double>()[i] = static_cast<double>(sine);
    } else {
      t.cos_PJ.data<float>()[i] = cosine;
      t.sin_PJ.data<float>()[i] = sine;
    }
  }
  return t;
}

class Rope : public testing::TestWithParam<RopeCase> {};

TEST_P(Rope, AgreesWithReference) {
  const RopeCase c = GetParam();
  const OpCase op = [&](Workbench& bench) {
    const Tables t = tables(bench, c.rows_per_sample + 3, c.pairs);
    const Shape shape{c.samples * c.rows_per_sample, c.heads * c.head_width};
    const Tensor x = bench.normal("x", shape), back = bench.normal("back", shape);
    rope_apply(bench.exec, x, {c.heads, c.head_width}, t.cos_PJ, t.sin_PJ, c.rows_per_sample);
    rope_apply(bench.exec, back, {c.heads, c.head_width}, t.cos_PJ, t.sin_PJ, c.rows_per_sample,
               /*inverse=*/true);
    return NamedOutputs{{"x", x}, {"inverse", back}};
  };
  expect_close(tolerance::kRope, op);
  expect_same_bits_on_threads(op);
  expect_close_bf16(tolerance::kToBf16, op);
  expect_same_bf16_bits_on_threads(op);
}

INSTANTIATE_TEST_SUITE_P(Shapes, Rope,
                         testing::Values(RopeCase{1, 1, 1, 2, 1}, RopeCase{1, 127, 3, 12, 2},
                                         RopeCase{3, 43, 2, 192, 32}, RopeCase{2, 129, 1, 64, 32},
                                         RopeCase{1, 257, 5, 7, 3}, RopeCase{2, 5, 4, 22, 11}));

// By the definition: the pair (x, y) of the row at position p becomes (x cos pθ − y sin pθ, x sin pθ + y cos
// pθ), and what comes before the rotary part stays.
TEST(RopeReference, TurnsInterleavedPairs) {
  Workbench bench(Device::reference, DType::f64);
  const Tensor cos_PJ = bench.empty({2, 1}), sin_PJ = bench.empty({2, 1}), x = bench.empty({2, 3});
  std::ranges::copy(std::vector<double>{1, 0}, cos_PJ.data<double>());
  std::ranges::copy(std::vector<double>{0, 1}, sin_PJ.data<double>());
  std::ranges::copy(std::vector<double>{5, 1, 2, 6, 3, 4}, x.data<double>());
  rope_apply(bench.exec, x, {1, 3}, cos_PJ, sin_PJ, 2);
  EXPECT_TRUE(std::ranges::equal(x.span<double>(), std::vector<double>{5, 1, 2, 6, -4, 3}));
}

TEST(RopeReference, Gradients) {
  Workbench bench(Device::reference, DType::f64);
  const Tables t = tables(bench, 4, 2);
  const Tensor x = bench.normal("x", {8, 12}), dy = bench.normal("dy", {8, 12}), y = bench.empty({8, 12});
  const Tensor dx = bench.empty({8, 12});
  dx.copy_from(dy);
  rope_apply(bench.exec, dx, {2, 6}, t.cos_PJ, t.sin_PJ, 4, /*inverse=*/true);
  // The inverse turns by the tables' angles, so the gradient is exact for any table.
  expect_gradients({{"x", x, dx}}, [&] {
    y.copy_from(x);
    rope_apply(bench.exec, y, {2, 6}, t.cos_PJ, t.sin_PJ, 4);
    return dot(y, dy);
  });
}

}  // namespace
}  // namespace moray
