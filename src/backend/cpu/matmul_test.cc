// The six products against a scalar emulation of the canonical order (docs/numerics.md), bit for bit, on
// every instruction set of the machine and any number of threads.
#include "ops/matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <vector>

#include "backend/cpu/kernels_list.h"
#include "backend/cpu/matmul_blocking.h"
#include "backend/cpu/register.h"
#include "base/random.h"

namespace moray {
namespace {

Allocator& allocator() {
  static Allocator instance;
  return instance;
}

Tensor random_tensor(Shape shape, DType dtype, uint64_t seed) {
  const Tensor tensor = Tensor::empty(allocator(), shape, dtype);
  Random random(seed, 0);
  for (int64_t i = 0; i < tensor.elements(); ++i) {
    const auto value = static_cast<float>(random.normal());
    if (dtype == DType::bf16)
      tensor.data<bf16>()[i] = to_bf16(value);
    else
      tensor.data<float>()[i] = value;
  }
  return tensor;
}

float at(const Tensor& tensor, int64_t index) {
  return tensor.dtype() == DType::bf16 ? to_float(tensor.data<bf16>()[index]) : tensor.data<float>()[index];
}

void put(const Tensor& tensor, int64_t index, float value) {
  if (tensor.dtype() == DType::bf16)
    tensor.data<bf16>()[index] = to_bf16(value);
  else
    tensor.data<float>()[index] = value;
}

Tensor copy(const Tensor& tensor) {
  const Tensor result = Tensor::empty(allocator(), tensor.shape(), tensor.dtype());
  result.copy_from(tensor);
  return result;
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return std::memcmp(a.raw(), b.raw(), a.bytes()) == 0;
}

using Element = std::function<float(int64_t)>;

// run, after the segment [begin, end) of k was added in blocks of 128 that start at its beginning.
float add_segment(float run, int64_t begin, int64_t end, const Element& a, const Element& b) {
  for (int64_t block = begin; block < end; block += 128) {
    float part = 0;
    for (int64_t k = block; k < std::min(block + 128, end); ++k) part = std::fma(a(k), b(k), part);
    run += part;
  }
  return run;
}

// Rows [begin, end) of y = x · wᵀ, with w at element offset w_at.
void emulate_forward(const Tensor& x, const Tensor& w, int64_t w_at, int64_t begin, int64_t end,
                     const Tensor& y) {
  const int64_t inputs = x.extent(1), outputs = y.extent(1);
  for (int64_t t = begin; t < end; ++t)
    for (int64_t o = 0; o < outputs; ++o)
      put(y, t * outputs + o,
          add_segment(
              0, 0, inputs, [&](int64_t k) { return at(x, t * inputs + k); },
              [&](int64_t k) { return at(w, w_at + o * inputs + k); }));
}

void emulate_backward_input(const Tensor& dy, const Tensor& w, int64_t w_at, int64_t begin, int64_t end,
                            const Tensor& dx, bool accumulate) {
  const int64_t inputs = dx.extent(1), outputs = dy.extent(1);
  for (int64_t t = begin; t < end; ++t)
    for (int64_t i = 0; i < inputs; ++i)
      put(dx, t * inputs + i,
          add_segment(
              accumulate ? at(dx, t * inputs + i) : 0.0f, 0, outputs,
              [&](int64_t k) { return at(dy, t * outputs + k); },
              [&](int64_t k) { return at(w, w_at + k * inputs + i); }));
}

// dw (at element offset dw_at) += the rows of one segment after another.
void emulate_backward_weight(const Tensor& dy, const Tensor& x,
                             const std::vector<std::pair<int64_t, int64_t>>& rows, const Tensor& dw,
                             int64_t dw_at) {
  const int64_t inputs = x.extent(1), outputs = dy.extent(1);
  for (int64_t o = 0; o < outputs; ++o)
    for (int64_t i = 0; i < inputs; ++i) {
      const int64_t index = dw_at + o * inputs + i;
      float run = at(dw, index);
      for (const auto& [begin, end] : rows)
        run = add_segment(
            run, begin, end, [&](int64_t k) { return at(dy, k * outputs + o); },
            [&](int64_t k) { return at(x, k * inputs + i); });
      put(dw, index, run);
    }
}

// Runs `product` on every instruction set with 1, 2 and 4 threads; each result must equal `expected`.
void expect_everywhere(const Tensor& start, const Tensor& expected,
                       const std::function<void(Exec&, const Tensor&)>& product) {
  for (const char* simd : {"avx2", "avx512"}) {
    if (!cpu::force_simd(simd)) continue;
    for (int threads : {1, 2, 4}) {
      ThreadPool pool(threads);
      Exec exec{Device::cpu, &pool, &allocator(), DType::f32};
      const Tensor result = copy(start);
      product(exec, result);
      EXPECT_TRUE(same_bits(result, expected)) << simd << ", " << threads << " threads";
    }
  }
}

struct Case {
  int64_t rows, inputs, outputs;
  DType x, w, y;
};

class MatmulTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { cpu::register_matmul(); }
  void TearDown() override {
    if (!cpu::force_simd("avx512")) cpu::force_simd("avx2");
  }
};

// One row, primes, edges of the register tiles (6, 14 rows; 16, 32 columns) and of k-blocks, several
// k-chunks.
const std::vector<Case>& cases() {
  constexpr DType f = DType::f32, h = DType::bf16;
  static const std::vector<Case> list = {
      {1, 1, 1, f, f, f},
      {1, 300, 67, f, f, f},
      {7, 127, 31, f, f, f},
      {13, 128, 32, h, f, f},
      {14, 129, 33, f, h, f},
      {15, 5, 16, h, h, h},
      {29, 257, 47, f, f, f},
      {64, 640, 96, h, h, f},
      {131, 521, 9, f, f, h},
      {257, 33, 130, h, h, h},
      {600, 40, 23, f, f, f},
      {30, 150, 701, f, h, h},
      {0, 20, 20, f, f, f},
      {3, 1031, 1, f, f, f},
      // Few rows of each number of vectors, rows of 4 KiB and others.
      {8, 1024, 29, f, f, f},
      {37, 260, 90, f, f, h},
      {48, 1024, 61, f, f, f},
      {64, 2048, 40, f, h, f},
      {200, 1024, 75, f, f, f},
      // Packed once for all tasks, one chunk and several.
      {300, 300, 290, f, f, f},
      {257, 1111, 37, h, f, h},
  };
  return list;
}

TEST_F(MatmulTest, ForwardHasTheCanonicalBits) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(::testing::Message() << c.rows << "x" << c.inputs << "x" << c.outputs);
    const Tensor x = random_tensor({c.rows, c.inputs}, c.x, 1),
                 w = random_tensor({c.outputs, c.inputs}, c.w, 2);
    const Tensor start = random_tensor({c.rows, c.outputs}, c.y, 3), expected = copy(start);
    emulate_forward(x, w, 0, 0, c.rows, expected);
    expect_everywhere(start, expected, [&](Exec& exec, const Tensor& y) { matmul_forward(exec, x, w, y); });
  }
}

TEST_F(MatmulTest, WhatIsPackedInPartsHasTheCanonicalBits) {
  const Tensor x = random_tensor({257, 29100}, DType::f32, 1), w = random_tensor({3, 29100}, DType::f32, 2);
  const Tensor start = random_tensor({257, 3}, DType::f32, 3), expected = copy(start);
  emulate_forward(x, w, 0, 0, 257, expected);
  expect_everywhere(start, expected, [&](Exec& exec, const Tensor& y) { matmul_forward(exec, x, w, y); });
}

TEST_F(MatmulTest, BackwardInputHasTheCanonicalBits) {
  for (const Case& c : cases())
    for (bool accumulate : {false, true}) {
      SCOPED_TRACE(::testing::Message()
                   << c.rows << "x" << c.inputs << "x" << c.outputs << " " << accumulate);
      const Tensor dy = random_tensor({c.rows, c.outputs}, c.x, 1),
                   w = random_tensor({c.outputs, c.inputs}, c.w, 2);
      const Tensor start = random_tensor({c.rows, c.inputs}, c.y, 3), expected = copy(start);
      emulate_backward_input(dy, w, 0, 0, c.rows, expected, accumulate);
      expect_everywhere(start, expected, [&](Exec& exec, const Tensor& dx) {
        matmul_backward_input(exec, dy, w, dx, accumulate);
      });
    }
}

TEST_F(MatmulTest, BackwardWeightRestartsBlocksAtSamplesAndSplitsGroups) {
  for (const Case& c : cases())
    for (const SampleRows& rows :
         {SampleRows{1, c.rows, 0, 1}, SampleRows{3, c.rows, 1, 2}, SampleRows{5, c.rows / 3, 4, 7}}) {
      SCOPED_TRACE(::testing::Message()
                   << c.rows << "x" << c.inputs << "x" << c.outputs << " " << rows.samples);
      const Tensor dy = random_tensor({rows.rows(), c.outputs}, c.x, 1);
      const Tensor x = random_tensor({rows.rows(), c.inputs}, c.w, 2);
      const Tensor start = random_tensor({rows.gradient_groups, c.outputs, c.inputs}, c.y, 3),
                   expected = copy(start);
      for (int64_t group = 0; group < rows.gradient_groups; ++group) {
        std::vector<std::pair<int64_t, int64_t>> segments;
        for (int64_t s = 0; s < rows.samples; ++s)
          if ((rows.first_sample + s) % rows.gradient_groups == group)
            segments.emplace_back(s * rows.rows_per_sample, (s + 1) * rows.rows_per_sample);
        emulate_backward_weight(dy, x, segments, expected, group * c.outputs * c.inputs);
      }
      expect_everywhere(start, expected,
                        [&](Exec& exec, const Tensor& dw) { matmul_backward_weight(exec, dy, x, rows, dw); });
    }
}

TEST_F(MatmulTest, TheEmulationNoticesBlocksThatStraddleSamples) {
  const SampleRows rows{3, 130, 0, 1};
  const Tensor dy = random_tensor({390, 40}, DType::f32, 1), x = random_tensor({390, 40}, DType::f32, 2);
  const Tensor dw = random_tensor({1, 40, 40}, DType::f32, 3), straddling = copy(dw);
  emulate_backward_weight(dy, x, {{0, 390}}, straddling, 0);
  ThreadPool pool(1);
  Exec exec{Device::cpu, &pool, &allocator(), DType::f32};
  matmul_backward_weight(exec, dy, x, rows, dw);
  EXPECT_FALSE(same_bits(dw, straddling));
}

ExpertRows expert_rows(int64_t experts, int64_t samples, const std::vector<int32_t>& counts) {
  ExpertRows rows{Tensor::empty(allocator(), {experts * samples + 1}, DType::i32), experts, samples};
  int32_t sum = 0;
  for (size_t i = 0; i <= counts.size(); ++i) {
    rows.offsets_ES.data<int32_t>()[i] = sum;
    if (i < counts.size()) sum += counts[i];
  }
  return rows;
}

struct Routing {
  const char* name;
  std::vector<int32_t> counts;  // 5 experts × 3 samples
};

const std::vector<Routing>& routings() {
  static const std::vector<Routing> list = {
      {"even", {3, 5, 2, 4, 4, 4, 1, 7, 2, 9, 1, 1, 3, 3, 3}},
      {"empty experts", {0, 0, 0, 17, 0, 30, 0, 0, 0, 1, 1, 0, 0, 0, 0}},
      {"all on one", {0, 0, 0, 0, 0, 0, 131, 260, 13, 0, 0, 0, 0, 0, 0}},
      {"long samples", {129, 1, 127, 0, 256, 1, 2, 0, 0, 0, 0, 0, 0, 0, 200}},
      {"no rows", {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
  };
  return list;
}

constexpr int64_t kExperts = 5, kSamples = 3, kInputs = 141, kOutputs = 39;

TEST_F(MatmulTest, GroupedForwardAndBackwardInputHaveTheCanonicalBits) {
  for (const Routing& routing : routings())
    for (DType dtype : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(routing.name);
      const ExpertRows rows = expert_rows(kExperts, kSamples, routing.counts);
      const int64_t total = rows.end(kExperts - 1);
      const Tensor x = random_tensor({total, kInputs}, dtype, 1),
                   dy = random_tensor({total, kOutputs}, dtype, 2);
      const Tensor w = random_tensor({kExperts, kOutputs, kInputs}, dtype, 3);
      const Tensor y_start = random_tensor({total, kOutputs}, dtype, 4), y = copy(y_start);
      const Tensor dx_start = random_tensor({total, kInputs}, dtype, 5), dx = copy(dx_start);
      for (int64_t e = 0; e < kExperts; ++e) {
        emulate_forward(x, w, e * kOutputs * kInputs, rows.begin(e), rows.end(e), y);
        emulate_backward_input(dy, w, e * kOutputs * kInputs, rows.begin(e), rows.end(e), dx, true);
      }
      expect_everywhere(
          y_start, y, [&](Exec& exec, const Tensor& out) { grouped_matmul_forward(exec, x, w, rows, out); });
      expect_everywhere(dx_start, dx, [&](Exec& exec, const Tensor& out) {
        grouped_matmul_backward_input(exec, dy, w, rows, out, true);
      });
    }
}

TEST_F(MatmulTest, GroupedBackwardWeightRestartsBlocksAtEachExpertAndSample) {
  for (const Routing& routing : routings())
    for (DType dtype : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(routing.name);
      const ExpertRows rows = expert_rows(kExperts, kSamples, routing.counts);
      const int64_t total = rows.end(kExperts - 1);
      const Tensor x = random_tensor({total, kInputs}, dtype, 1),
                   dy = random_tensor({total, kOutputs}, dtype, 2);
      const Tensor start = random_tensor({kExperts, kOutputs, kInputs}, DType::f32, 3),
                   expected = copy(start);
      for (int64_t e = 0; e < kExperts; ++e) {
        std::vector<std::pair<int64_t, int64_t>> segments;
        for (int64_t s = 0; s < kSamples; ++s) segments.emplace_back(rows.begin(e, s), rows.begin(e, s + 1));
        emulate_backward_weight(dy, x, segments, expected, e * kOutputs * kInputs);
      }
      expect_everywhere(start, expected, [&](Exec& exec, const Tensor& dw) {
        grouped_matmul_backward_weight(exec, dy, x, rows, dw);
      });
    }
}

TEST_F(MatmulTest, AnySplitOfRowsGivesTheSameBits) {
  ThreadPool pool(2);
  Exec exec{Device::cpu, &pool, &allocator(), DType::f32};
  const Tensor x = random_tensor({101, 200}, DType::f32, 1), w = random_tensor({77, 200}, DType::f32, 2);
  const Tensor whole = Tensor::empty(allocator(), {101, 77}, DType::f32), split = copy(whole);
  matmul_forward(exec, x, w, whole);
  for (int64_t begin = 0, rows = 1; begin < 101; begin += rows, rows = rows * 2 + 1)
    matmul_forward(exec, x.rows(begin, std::min<int64_t>(begin + rows, 101)), w,
                   split.rows(begin, std::min<int64_t>(begin + rows, 101)));
  EXPECT_TRUE(same_bits(whole, split));
}

TEST_F(MatmulTest, OperandsAreNotReadBeyondTheirEnd) {
  // NaN behind every operand must not reach the result (a wrong mask or tail would read it).
  ThreadPool pool(1);
  Exec exec{Device::cpu, &pool, &allocator(), DType::f32};
  const Tensor x = random_tensor({4, 11}, DType::f32, 1), w = random_tensor({4, 11}, DType::f32, 2);
  for (int64_t i = 33; i < 44; ++i) x.data<float>()[i] = w.data<float>()[i] = std::nanf("");
  const Tensor y = Tensor::zeros(allocator(), {3, 3}, DType::f32);
  matmul_forward(exec, x.rows(0, 3), w.rows(0, 3), y);
  for (float value : y.span<float>()) EXPECT_FALSE(std::isnan(value));
}

TEST_F(MatmulTest, AllocatesNothingAfterTheFirstCall) {
  ThreadPool pool(2);
  Exec exec{Device::cpu, &pool, &allocator(), DType::f32};
  const Tensor x = random_tensor({300, 300}, DType::bf16, 1), y = random_tensor({300, 300}, DType::bf16, 2);
  matmul_forward(exec, x, x, y);
  const size_t live = allocator().live_bytes(), asked = allocator().system_allocations();
  for (int i = 0; i < 5; ++i) matmul_forward(exec, x, x, y);
  EXPECT_EQ(allocator().live_bytes(), live);
  EXPECT_EQ(allocator().system_allocations(), asked);
}

TEST(MatmulBlockingTest, FitsTheCachesAndFeedsTheThreads) {
  const cpu::RegisterTile tile{14, 32};
  const cpu::CacheSizes caches{48 << 10, 1 << 20};
  const cpu::MatmulBlocking square = cpu::matmul_blocking(1024, 1024, 1024, 8, {}, caches, tile);
  EXPECT_EQ(square.to_string(), "tasks of 512 x 160, k by 768, packed once");
  EXPECT_EQ(square.tasks(1024, 1024), 14);
  EXPECT_LE(tile.rows * square.k * 4, caches.l1_bytes);
  EXPECT_LE(square.columns * square.k * 4, caches.l2_bytes / 2);
  const cpu::MatmulBlocking shallow = cpu::matmul_blocking(1024, 1024, 192, 8, {}, caches, tile);
  EXPECT_EQ(shallow.to_string(), "tasks of 512 x 256, k by 256, keeping B");
  EXPECT_LE((tile.rows + tile.columns) * shallow.k * 4, caches.l1_bytes);
  EXPECT_LE(std::max(shallow.rows, shallow.columns) * shallow.k * 4, caches.l2_bytes / 2);
  EXPECT_EQ(cpu::matmul_blocking(64, 1408, 2048, 8, {}, caches, tile).order, cpu::MatmulOrder::few_rows);
  EXPECT_EQ(cpu::matmul_blocking(1, 1408, 2048, 8, {}, caches, tile).order, cpu::MatmulOrder::keep_a);
  EXPECT_EQ(cpu::matmul_blocking(64, 2048, 1408, 1, {true, false}, caches, tile).to_string(),
            "tasks of 64 x 256, k by 128, keeping B");
  // Nine tasks would not divide among two threads.
  EXPECT_EQ(
      cpu::matmul_blocking(1408, 2048, 64, 8, {true, false}, {48 << 10, 2 << 20}, tile).tasks(1408, 2048) % 2,
      0);
  // A tall, narrow product is split over rows instead; a tiny one not at all.
  EXPECT_EQ(cpu::matmul_blocking(1024, 64, 2048, 8, {}, caches, tile).tasks(1024, 64), 8);
  EXPECT_EQ(cpu::wanted_tasks(8 * 8 * 8, 8), 1);
  EXPECT_EQ(cpu::matmul_blocking(1, 1, 0, 1, {}, caches, tile).tasks(1, 1), 1);
}

}  // namespace
}  // namespace moray
