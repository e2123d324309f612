// T tokens, K experts a token, R = T·K expert rows, E experts, S samples, D width.
#include "ops/permute.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "base/random.h"
#include "ops/tolerances.h"
#include "tests/support/gradient_check.h"
#include "tests/support/workbench.h"

namespace moray {
namespace {

enum class Load { random, all_on_the_same, first_expert_empty };

struct PermuteCase {
  int64_t samples, rows_per_sample, choices, experts, n_group, width;
  Load load = Load::random;

  int64_t tokens() const { return samples * rows_per_sample; }
};

void PrintTo(const PermuteCase& c, std::ostream* os) {
  *os << c.samples << "x" << c.rows_per_sample << " tokens, " << c.choices << " of " << c.experts
      << " experts, load " << static_cast<int>(c.load);
}

// Ascending distinct ids for each token.
Tensor choose(const PermuteCase& c, Workbench& bench) {
  Random random(3, 4);
  std::vector<int32_t> all;
  for (int64_t t = 0; t < c.tokens(); ++t) {
    const int32_t first = c.load == Load::first_expert_empty ? 1 : 0;
    std::vector<int32_t> ids(static_cast<size_t>(c.experts - first));
    std::iota(ids.begin(), ids.end(), first);
    if (c.load != Load::all_on_the_same)
      for (size_t i = ids.size() - 1; i > 0; --i) std::swap(ids[i], ids[random.below(i + 1)]);
    ids.resize(static_cast<size_t>(c.choices));
    std::sort(ids.begin(), ids.end());
    all.insert(all.end(), ids.begin(), ids.end());
  }
  return bench.ints({c.tokens(), c.choices}, all);
}

class Permute : public testing::TestWithParam<PermuteCase> {};

TEST_P(Permute, AgreesWithReference) {
  const OpCase op = [](Workbench& bench) {
    const PermuteCase& c = GetParam();
    const int64_t T = c.tokens(), K = c.choices, R = T * K, D = c.width;
    const Tensor ids = choose(c, bench);
    DispatchPlan plan = allocate_dispatch_plan(bench.exec, T, K, c.experts, c.samples);
    dispatch_plan(bench.exec, ids, plan);
    const Tensor x = bench.normal("x", {T, D}), rows = bench.empty({R, D}), y = bench.normal("y", {R, D});
    const Tensor gates = bench.wide("gates", {T, K}), gate_R = bench.empty_wide({R}),
                 back = bench.empty_wide({T, K});
    const Tensor out = bench.empty({T, D}), more = bench.normal("out", {T, D}), sum = bench.empty({T, D});
    gather_rows(bench.exec, x, plan.token_R, rows);
    gather_values(bench.exec, gates, plan.choice_R, gate_R);
    gather_values(bench.exec, gate_R, plan.row_TK, back);
    combine_rows(bench.exec, y, gates, ids, plan.row_TK, c.experts / c.n_group, out);
    combine_rows(bench.exec, y, gates, ids, plan.row_TK, c.experts / c.n_group, more, /*accumulate=*/true);
    combine_rows(bench.exec, y, Tensor{}, ids, plan.row_TK, c.experts / c.n_group, sum);
    return NamedOutputs{{"offsets", plan.rows.offsets_ES},
                        {"token", plan.token_R},
                        {"choice", plan.choice_R},
                        {"row", plan.row_TK},
                        {"rows", rows},
                        {"gate rows", gate_R},
                        {"gates back", back},
                        {"combined", out},
                        {"combined onto", more},
                        {"summed", sum}};
  };
  expect_close(tolerance::kCombine, op);
  expect_reference_bits(op);
  expect_same_bits_on_threads(op);
  expect_close_bf16(tolerance::kCombineBf16, op);
  expect_reference_bf16_bits(op);
  expect_same_bf16_bits_on_threads(op);
}

// What the header promises of a plan, from the ids alone.
TEST_P(Permute, PlanIsSortedAndComplete) {
  for (Device device : {Device::reference, Device::cpu}) {
    const PermuteCase& c = GetParam();
    Workbench bench(device, DType::f32);
    const Tensor ids = choose(c, bench);
    DispatchPlan plan = allocate_dispatch_plan(bench.exec, c.tokens(), c.choices, c.experts, c.samples);
    dispatch_plan(bench.exec, ids, plan);
    int32_t previous_token = -1;
    int64_t row = 0;
    for (int64_t e = 0; e < c.experts; ++e)
      for (int64_t s = 0; s < c.samples; ++s, previous_token = -1) {
        ASSERT_EQ(plan.rows.begin(e, s), row);
        for (; row < plan.rows.begin(e, s + 1); ++row) {
          const int32_t choice = plan.choice_R.data<int32_t>()[row],
                        token = plan.token_R.data<int32_t>()[row];
          ASSERT_EQ(ids.data<int32_t>()[choice], e);
          ASSERT_EQ(choice / c.choices, token);
          ASSERT_EQ(token / c.rows_per_sample, s);
          ASSERT_GT(token, previous_token);
          ASSERT_EQ(plan.row_TK.data<int32_t>()[choice], row);
          previous_token = token;
        }
      }
    EXPECT_EQ(row, c.tokens() * c.choices);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Permute,
                         testing::Values(PermuteCase{1, 1, 1, 1, 1, 1}, PermuteCase{1, 1, 8, 32, 8, 129},
                                         PermuteCase{3, 43, 6, 64, 1, 61}, PermuteCase{2, 127, 4, 16, 4, 13},
                                         PermuteCase{1, 257, 2, 12, 2, 128, Load::all_on_the_same},
                                         PermuteCase{2, 128, 3, 8, 4, 7, Load::first_expert_empty},
                                         PermuteCase{5, 1, 3, 3, 1, 257}));

// A token's rows through dispatch and combine: loss = Σ combine(gates, a·gather(x)), its gradients by the
// same ops.
TEST(PermuteReference, Gradients) {
  const PermuteCase c{2, 3, 2, 6, 3, 5};
  const int64_t T = c.tokens(), K = c.choices, R = T * K, D = c.width;
  Workbench bench(Device::reference, DType::f64);
  const Tensor ids = choose(c, bench);
  DispatchPlan plan = allocate_dispatch_plan(bench.exec, T, K, c.experts, c.samples);
  dispatch_plan(bench.exec, ids, plan);
  const Tensor x = bench.normal("x", {T, D}), gates = bench.normal("gates", {T, K}),
               a = bench.normal("a", {R, D});
  const Tensor dout = bench.normal("dout", {T, D}), out = bench.empty({T, D}), y = bench.empty({R, D});
  const auto loss = [&] {
    gather_rows(bench.exec, x, plan.token_R, y);
    for (int64_t i = 0; i < y.elements(); ++i) y.data<double>()[i] *= a.data<double>()[i];
    combine_rows(bench.exec, y, gates, ids, plan.row_TK, c.experts / c.n_group, out);
    return dot(out, dout);
  };
  loss();
  const Tensor dy = bench.empty({R, D}), gate_R = bench.empty({R}), dgate_R = bench.empty({R});
  const Tensor dgates = bench.empty({T, K}), dx = bench.empty({T, D});
  gather_rows(bench.exec, dout, plan.token_R, dy);
  gather_values(bench.exec, gates, plan.choice_R, gate_R);
  for (int64_t r = 0; r < R; ++r) {
    dgate_R.data<double>()[r] = dot(y.row(r), dy.row(r));
    for (int64_t d = 0; d < D; ++d)
      dy.data<double>()[r * D + d] *= gate_R.data<double>()[r] * a.data<double>()[r * D + d];
  }
  gather_values(bench.exec, dgate_R, plan.row_TK, dgates);
  combine_rows(bench.exec, dy, Tensor{}, ids, plan.row_TK, c.experts / c.n_group, dx);
  expect_gradients({{"x", x, dx}, {"gates", gates, dgates}}, loss);
}

}  // namespace
}  // namespace moray
