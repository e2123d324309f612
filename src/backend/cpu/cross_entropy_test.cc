// The fused head and loss against double precision, and the same bits whatever ran them.
#include "ops/cross_entropy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>
#include <vector>

#include "backend/cpu/kernels_list.h"
#include "backend/cpu/register.h"
#include "base/random.h"

namespace moray {
namespace {

struct Case {
  int64_t hidden, vocabulary;
  SampleRows rows;
};

// One row, primes, samples shorter and longer than a block of 128 rows, several groups, an odd vocabulary.
const std::vector<Case>& cases() {
  static const std::vector<Case> list = {{1, 1, {1, 1, 0, 1}},
                                         {37, 131, {3, 7, 0, 1}},
                                         {64, 515, {5, 50, 1, 2}},
                                         {19, 16, {2, 131, 0, 2}},
                                         {129, 1000, {1, 300, 0, 1}}};
  return list;
}

class CrossEntropyTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    cpu::register_matmul();
    cpu::register_cross_entropy();
  }
  void TearDown() override {
    if (!cpu::force_simd("avx512")) cpu::force_simd("avx2");
  }

  Tensor random_tensor(Shape shape, uint64_t seed) {
    const Tensor tensor = Tensor::empty(allocator_, shape, DType::f32);
    Random random(seed, 0);
    for (float& value : tensor.span<float>()) value = static_cast<float>(random.normal());
    return tensor;
  }

  struct Inputs {
    Tensor h, w, targets, dw_start;
  };
  // Every fifth row has no target.
  Inputs inputs(const Case& c) {
    const int64_t rows = c.rows.rows();
    Inputs in{random_tensor({rows, c.hidden}, 1), random_tensor({c.vocabulary, c.hidden}, 2),
              Tensor::empty(allocator_, {rows}, DType::i32),
              random_tensor({c.rows.gradient_groups, c.vocabulary, c.hidden}, 3)};
    Random random(4, 0);
    for (int64_t t = 0; t < rows; ++t) {
      const auto target = static_cast<int32_t>(random.below(static_cast<uint64_t>(c.vocabulary)));
      in.targets.data<int32_t>()[t] = t % 5 == 4 ? -1 : target;
    }
    return in;
  }

  struct Outputs {
    Tensor loss, dh, dw;
    bool operator==(const Outputs& o) const { return same(loss, o.loss) && same(dh, o.dh) && same(dw, o.dw); }
    static bool same(const Tensor& a, const Tensor& b) {
      return std::memcmp(a.raw(), b.raw(), a.bytes()) == 0;
    }
  };
  static constexpr double kScale = 0.03;

  // In pieces of `samples_at_once` samples, as micro-batches would.
  Outputs run(const Case& c, const Inputs& in, int threads, int64_t samples_at_once) {
    ThreadPool pool(threads);
    Exec exec{Device::cpu, &pool, &allocator_, DType::f32};
    Outputs out{Tensor::empty(allocator_, {c.rows.rows()}, DType::f32),
                Tensor::empty(allocator_, in.h.shape(), DType::f32),
                Tensor::empty(allocator_, in.dw_start.shape(), DType::f32)};
    out.dw.copy_from(in.dw_start);
    for (int64_t sample = 0; sample < c.rows.samples; sample += samples_at_once) {
      SampleRows part = c.rows;
      part.first_sample += sample;
      part.samples = std::min(samples_at_once, c.rows.samples - sample);
      const int64_t begin = sample * c.rows.rows_per_sample, end = begin + part.rows();
      cross_entropy_forward_backward(exec, in.h.rows(begin, end), in.w, in.targets.rows(begin, end), part,
                                     kScale, out.loss.rows(begin, end), out.dh.rows(begin, end), out.dw);
    }
    return out;
  }

  Allocator allocator_;
};

// Loss and dlogits of row t in double precision.
double exact_row(const Tensor& h, const Tensor& w, int64_t t, int32_t target, std::vector<double>& dlogits) {
  const int64_t hidden = h.extent(1);
  double sum = 0;
  for (size_t v = 0; v < dlogits.size(); ++v) {
    const float *a = h.data<float>() + t * hidden, *b = w.data<float>() + static_cast<int64_t>(v) * hidden;
    dlogits[v] = std::inner_product(a, a + hidden, b, 0.0);
    sum += std::exp(dlogits[v]);
  }
  const double loss = std::log(sum) - dlogits[static_cast<size_t>(target)];
  for (double& x : dlogits) x = std::exp(x) / sum * 0.03;
  dlogits[static_cast<size_t>(target)] -= 0.03;
  return loss;
}

double distance(const Tensor& got, const std::vector<double>& expected) {
  double square = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    square += std::pow(got.data<float>()[i] - expected[i], 2);
    norm += expected[i] * expected[i];
  }
  return std::sqrt(square / std::max(norm, 1e-12));
}

TEST_F(CrossEntropyTest, AgreesWithDoublePrecision) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.vocabulary);
    const Inputs in = inputs(c);
    const Outputs out = run(c, in, 2, c.rows.samples);
    std::vector<double> loss, dh, dw(in.dw_start.span<float>().begin(), in.dw_start.span<float>().end());
    std::vector<double> dlogits(static_cast<size_t>(c.vocabulary));
    for (int64_t t = 0; t < c.rows.rows(); ++t) {
      const int32_t target = in.targets.data<int32_t>()[t];
      std::fill(dlogits.begin(), dlogits.end(), 0.0);
      loss.push_back(target < 0 ? 0 : exact_row(in.h, in.w, t, target, dlogits));
      const int64_t group = c.rows.group(t / c.rows.rows_per_sample);
      for (int64_t d = 0; d < c.hidden; ++d) {
        double sum = 0;
        for (int64_t v = 0; v < c.vocabulary; ++v) {
          sum += dlogits[static_cast<size_t>(v)] * in.w.data<float>()[v * c.hidden + d];
          dw[static_cast<size_t>((group * c.vocabulary + v) * c.hidden + d)] +=
              dlogits[static_cast<size_t>(v)] * in.h.data<float>()[t * c.hidden + d];
        }
        dh.push_back(sum);
      }
    }
    EXPECT_LT(distance(out.loss, loss), 1e-6);
    EXPECT_LT(distance(out.dh, dh), 1e-5);
    EXPECT_LT(distance(out.dw, dw), 1e-6);
  }
}

TEST_F(CrossEntropyTest, SameBitsOnEveryInstructionSetThreadCountAndSplit) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.vocabulary);
    const Inputs in = inputs(c);
    cpu::force_simd("avx2");
    const Outputs expected = run(c, in, 1, c.rows.samples);
    for (const char* simd : {"avx2", "avx512"}) {
      if (!cpu::force_simd(simd)) continue;
      for (int threads : {1, 2, 4})
        for (int64_t at_once : {int64_t{1}, int64_t{2}, c.rows.samples})
          EXPECT_TRUE(run(c, in, threads, at_once) == expected) << simd << " " << threads << " " << at_once;
    }
  }
}

TEST_F(CrossEntropyTest, ForwardGivesTheSameLosses) {
  for (const Case& c : cases()) {
    const Inputs in = inputs(c);
    ThreadPool pool(2);
    Exec exec{Device::cpu, &pool, &allocator_, DType::f32};
    const Tensor loss = Tensor::empty(allocator_, {c.rows.rows()}, DType::f32);
    cross_entropy_forward(exec, in.h, in.w, in.targets, loss);
    EXPECT_TRUE(Outputs::same(loss, run(c, in, 1, 1).loss));
  }
}

TEST_F(CrossEntropyTest, RowsWithoutTargetContributeExactlyNothing) {
  const Case c = cases()[2];
  Inputs in = inputs(c);
  const Outputs before = run(c, in, 2, c.rows.samples);
  for (int64_t t = 4; t < c.rows.rows(); t += 5)
    for (int64_t d = 0; d < c.hidden; ++d) {
      EXPECT_EQ(before.dh.data<float>()[t * c.hidden + d], 0.0f);
      in.h.data<float>()[t * c.hidden + d] *= -3;
    }
  EXPECT_TRUE(run(c, in, 2, c.rows.samples) == before);
}

TEST_F(CrossEntropyTest, SurvivesLogitsBeyondTheRangeOfExp) {
  const Case c{1, 3, {1, 1, 0, 1}};
  Inputs in = inputs(c);
  in.h.data<float>()[0] = 1;
  const float logits[] = {1000, 0, -1000};
  std::copy_n(logits, 3, in.w.data<float>());
  in.targets.data<int32_t>()[0] = 2;
  EXPECT_EQ(run(c, in, 1, 1).loss.data<float>()[0], 2000.0f);
}

}  // namespace
}  // namespace moray
