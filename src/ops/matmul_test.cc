// T tokens (rows), I inputs, O outputs, R expert rows, E experts, G gradient groups.
#include "ops/matmul.h"

#include <gtest/gtest.h>

#include <numeric>

#include "ops/tolerances.h"
#include "tests/support/gradient_check.h"
#include "tests/support/workbench.h"

namespace moray {
namespace {

struct DenseCase {
  int64_t samples, rows_per_sample, inputs, outputs, groups, first_sample;
  bool bf16_operands = false;

  SampleRows rows() const { return {samples, rows_per_sample, first_sample, groups}; }
};

void PrintTo(const DenseCase& c, std::ostream* os) {
  *os << c.samples << "x" << c.rows_per_sample << " rows, " << c.inputs << " -> " << c.outputs << ", G "
      << c.groups << (c.bf16_operands ? ", bf16" : "");
}

NamedOutputs run_dense(const DenseCase& c, Workbench& bench) {
  const int64_t T = c.samples * c.rows_per_sample, I = c.inputs, O = c.outputs;
  const auto operand = [&](const char* name, Shape shape) {
    return c.bf16_operands ? bench.normal_bf16(name, shape) : bench.normal(name, shape);
  };
  const Tensor x = operand("x", {T, I}), w = operand("w", {O, I}), dy = operand("dy", {T, O});
  const Tensor y = bench.empty({T, O}), dx = bench.empty({T, I}), more = bench.normal("dx", {T, I});
  const Tensor dw = bench.normal("dw", {c.groups, O, I});
  matmul_forward(bench.exec, x, w, y);
  matmul_backward_input(bench.exec, dy, w, dx);
  matmul_backward_input(bench.exec, dy, w, more, /*accumulate=*/true);
  matmul_backward_weight(bench.exec, dy, x, c.rows(), dw);
  return {{"y", y}, {"dx", dx}, {"dx accumulated", more}, {"dw", dw}};
}

class DenseMatmul : public testing::TestWithParam<DenseCase> {};

TEST_P(DenseMatmul, AgreesWithReference) {
  const OpCase op = [](Workbench& bench) { return run_dense(GetParam(), bench); };
  expect_close(tolerance::kMatmul, op);
  expect_reference_bits(op);
  expect_same_bits_on_threads(op);
}

INSTANTIATE_TEST_SUITE_P(Shapes, DenseMatmul,
                         testing::Values(DenseCase{1, 1, 1, 1, 1, 0}, DenseCase{1, 1, 129, 127, 1, 0},
                                         DenseCase{3, 1, 17, 31, 2, 1}, DenseCase{1, 127, 128, 129, 1, 0},
                                         DenseCase{2, 129, 257, 37, 1, 0}, DenseCase{3, 43, 61, 257, 2, 5},
                                         DenseCase{4, 128, 13, 7, 3, 2}, DenseCase{1, 257, 131, 67, 1, 0},
                                         DenseCase{2, 131, 64, 48, 2, 0}, DenseCase{2, 7, 400, 300, 1, 0},
                                         DenseCase{2, 67, 129, 130, 1, 0, true},
                                         DenseCase{1, 1, 257, 33, 1, 0, true},
                                         DenseCase{3, 5, 3, 19, 3, 1, true}));

TEST(Matmul, RoundsBf16OutputsOnce) {
  const OpCase op = [](Workbench& bench) {
    const Tensor x = bench.normal_bf16("x", {37, 257}), w = bench.normal_bf16("w", {45, 257});
    const Tensor dy = bench.normal_bf16("dy", {37, 45});
    const bool reference_f64 = bench.exec.dtype == DType::f64;
    const auto output = [&](Shape shape) {
      return reference_f64 ? bench.empty(shape) : Tensor::empty(*bench.exec.allocator, shape, DType::bf16);
    };
    const Tensor y = output({37, 45}), dx = output({37, 257});
    matmul_forward(bench.exec, x, w, y);
    matmul_backward_input(bench.exec, dy, w, dx);
    return NamedOutputs{{"y", y}, {"dx", dx}};
  };
  expect_close(tolerance::kToBf16, op);
  expect_reference_bits(op);
}

// counts[e][s] rows of expert e in sample s.
struct GroupedCase {
  const char* name;
  std::vector<std::vector<int32_t>> counts;
  int64_t inputs, outputs;
  bool bf16_operands = false;

  int64_t experts() const { return static_cast<int64_t>(counts.size()); }
  int64_t samples() const { return static_cast<int64_t>(counts[0].size()); }
  ExpertRows rows(Workbench& bench) const {
    std::vector<int32_t> offsets = {0};
    for (const std::vector<int32_t>& of_expert : counts)
      for (int32_t count : of_expert) offsets.push_back(offsets.back() + count);
    return {bench.ints({experts() * samples() + 1}, offsets), experts(), samples()};
  }
};

void PrintTo(const GroupedCase& c, std::ostream* os) {
  *os << c.name;
}

NamedOutputs run_grouped(const GroupedCase& c, Workbench& bench) {
  const ExpertRows rows = c.rows(bench);
  const int64_t R = rows.end(rows.experts - 1), E = rows.experts, I = c.inputs, O = c.outputs;
  const auto operand = [&](const char* name, Shape shape) {
    return c.bf16_operands ? bench.normal_bf16(name, shape) : bench.normal(name, shape);
  };
  const Tensor x = operand("x", {R, I}), w = operand("w", {E, O, I}), dy = operand("dy", {R, O});
  const Tensor y = bench.empty({R, O}), dx = bench.empty({R, I}), more = bench.normal("dx", {R, I});
  const Tensor dw = bench.normal("dw", {E, O, I});
  grouped_matmul_forward(bench.exec, x, w, rows, y);
  grouped_matmul_backward_input(bench.exec, dy, w, rows, dx);
  grouped_matmul_backward_input(bench.exec, dy, w, rows, more, /*accumulate=*/true);
  grouped_matmul_backward_weight(bench.exec, dy, x, rows, dw);
  return {{"y", y}, {"dx", dx}, {"dx accumulated", more}, {"dw", dw}};
}

class GroupedMatmul : public testing::TestWithParam<GroupedCase> {};

TEST_P(GroupedMatmul, AgreesWithReference) {
  const OpCase op = [](Workbench& bench) { return run_grouped(GetParam(), bench); };
  expect_close(tolerance::kMatmul, op);
  expect_reference_bits(op);
  expect_same_bits_on_threads(op);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, GroupedMatmul,
    testing::Values(GroupedCase{"one row", {{0}, {1}, {0}}, 31, 17},
                    GroupedCase{"ragged, two samples", {{5, 131}, {0, 0}, {1, 0}, {64, 13}}, 61, 37},
                    GroupedCase{"all on the last", {{0, 0}, {0, 0}, {129, 128}}, 48, 64},
                    GroupedCase{"all on the first", {{257}, {0}, {0}}, 129, 20},
                    GroupedCase{"three samples", {{3, 0, 127}, {0, 2, 1}, {7, 7, 0}}, 7, 131},
                    GroupedCase{"wide", {{6, 2}, {1, 9}}, 260, 140},
                    GroupedCase{"bf16", {{33, 2}, {0, 0}, {1, 140}}, 61, 37, true}));

// Samples of one group add up as if each had come alone: the split of a batch into micro-batches leaves no
// trace.
TEST(Matmul, WeightGradientsAddUpOverMicroBatches) {
  Workbench bench(Device::cpu, DType::f32, 2);
  const int64_t samples = 5, rows = 37, I = 61, O = 29, groups = 2;
  const Tensor x = bench.normal("x", {samples * rows, I}), dy = bench.normal("dy", {samples * rows, O});
  const Tensor whole = bench.zeros({groups, O, I}), pieces = bench.zeros({groups, O, I});
  matmul_backward_weight(bench.exec, dy, x, {samples, rows, 0, groups}, whole);
  for (auto [begin, end] : {std::pair<int64_t, int64_t>{0, 2}, {2, 3}, {3, 5}})
    matmul_backward_weight(bench.exec, dy.rows(begin * rows, end * rows), x.rows(begin * rows, end * rows),
                           {end - begin, rows, begin, groups}, pieces);
  EXPECT_TRUE(std::ranges::equal(whole.span<float>(), pieces.span<float>()));
}

TEST(Matmul, RowsDoNotDependOnTheirCompany) {
  Workbench bench(Device::cpu, DType::f32, 2);
  const Tensor x = bench.normal("x", {129, 200}), w = bench.normal("w", {77, 200});
  const Tensor together = bench.empty({129, 77}), alone = bench.empty({1, 77});
  matmul_forward(bench.exec, x, w, together);
  for (int64_t t : {0, 5, 64, 128}) {
    matmul_forward(bench.exec, x.rows(t, t + 1), w, alone);
    EXPECT_TRUE(std::ranges::equal(together.row(t).span<float>(), alone.span<float>())) << t;
  }
}

TEST(Matmul, Gradients) {
  Workbench bench(Device::reference, DType::f64);
  const SampleRows rows{2, 4, 0, 1};
  const Tensor x = bench.normal("x", {8, 5}), w = bench.normal("w", {3, 5}), dy = bench.normal("dy", {8, 3});
  const Tensor y = bench.empty({8, 3}), dx = bench.empty({8, 5}), dw = bench.zeros({1, 3, 5});
  matmul_backward_input(bench.exec, dy, w, dx);
  matmul_backward_weight(bench.exec, dy, x, rows, dw);
  expect_gradients({{"x", x, dx}, {"w", w, dw.row(0)}}, [&] {
    matmul_forward(bench.exec, x, w, y);
    return dot(y, dy);
  });
}

TEST(GroupedMatmulGradients, RaggedExperts) {
  Workbench bench(Device::reference, DType::f64);
  const GroupedCase shape{"", {{2, 3}, {0, 0}, {1, 4}}, 5, 3};
  const ExpertRows rows = shape.rows(bench);
  const Tensor x = bench.normal("x", {10, 5}), w = bench.normal("w", {3, 3, 5}),
               dy = bench.normal("dy", {10, 3});
  const Tensor y = bench.empty({10, 3}), dx = bench.empty({10, 5}), dw = bench.zeros({3, 3, 5});
  grouped_matmul_backward_input(bench.exec, dy, w, rows, dx);
  grouped_matmul_backward_weight(bench.exec, dy, x, rows, dw);
  expect_gradients({{"x", x, dx}, {"w", w, dw}}, [&] {
    grouped_matmul_forward(bench.exec, x, w, rows, y);
    return dot(y, dy);
  });
}

// The reference itself against a product worked out by hand.
TEST(Matmul, ReferenceByHand) {
  Workbench bench(Device::reference, DType::f64);
  const Tensor x = bench.empty({2, 2}), w = bench.empty({1, 2}), y = bench.empty({2, 1});
  std::ranges::copy(std::vector<double>{1, 2, 3, 4}, x.data<double>());
  std::ranges::copy(std::vector<double>{10, 100}, w.data<double>());
  matmul_forward(bench.exec, x, w, y);
  EXPECT_EQ(y.data<double>()[0], 210);
  EXPECT_EQ(y.data<double>()[1], 430);
}

}  // namespace
}  // namespace moray
