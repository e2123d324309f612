// Attention against a plain double-precision computation, and bit for bit across instruction sets, threads
// and splits.
#include "ops/mla_attention.h"

#include "backend/cpu/kernels_test.h"

namespace moray::cpu::test {
namespace {

struct Problem {
  MlaShape shape;
  AttentionMask mask;
  Tensor q, kv, k_rope, d_o;

  int64_t rows() const { return mask.samples * mask.rows_per_sample; }
};

Problem make_problem(int64_t samples, int64_t rows, int64_t heads, int64_t nope, int64_t rope,
                     int64_t value) {
  Problem p;
  p.shape = {heads, nope, rope, value, 1 / std::sqrt(static_cast<double>(nope + rope))};
  p.mask = {samples, rows, {}};
  p.q = random_tensor({p.rows(), p.shape.q_width()}, 1, 2);
  p.kv = random_tensor({p.rows(), p.shape.kv_width()}, 2);
  p.k_rope = random_tensor({p.rows(), rope}, 3);
  p.d_o = random_tensor({p.rows(), p.shape.o_width()}, 4);
  return p;
}

// Documents of uneven length, so that some blocks see no earlier block and some documents cross blocks.
Tensor document_starts(int64_t samples, int64_t rows) {
  std::vector<int32_t> starts;
  for (int64_t sample = 0; sample < samples; ++sample) {
    int32_t start = 0;
    int64_t length = 0;
    for (int64_t t = 0; t < rows; ++t, --length) {
      if (length == 0) {
        start = static_cast<int32_t>(t);
        length =
            1 + static_cast<int64_t>(mix64(static_cast<uint64_t>(sample), static_cast<uint64_t>(t)) % 200);
      }
      starts.push_back(start);
    }
  }
  return i32_tensor(starts, {samples * rows});
}

// o, lse, dq, dkv, dk_rope
std::vector<Tensor> run(Exec& exec, const Problem& p) {
  const Tensor o = zeros(p.d_o.shape()), lse = zeros({p.shape.heads, p.rows()});
  mla_attention_forward(exec, p.q, p.kv, p.k_rope, p.shape, p.mask, o, lse);
  // Outputs hold rubbish before: they must be overwritten.
  const Tensor dq = random_tensor(p.q.shape(), 9), dkv = random_tensor(p.kv.shape(), 9);
  const Tensor dk_rope = random_tensor(p.k_rope.shape(), 9);
  mla_attention_backward(exec, p.d_o, p.q, p.kv, p.k_rope, o, lse, p.shape, p.mask, dq, dkv, dk_rope);
  return {o, lse, dq, dkv, dk_rope};
}

// The definition, in double: softmax over whole rows, gradients by the chain rule.
std::vector<std::vector<double>> expected(const Problem& p) {
  const int64_t T = p.mask.rows_per_sample, N = p.shape.qk_nope_head_dim, R = p.shape.qk_rope_head_dim;
  const int64_t V = p.shape.v_head_dim, H = p.shape.heads;
  const auto size = [](const Tensor& x) { return std::vector<double>(static_cast<size_t>(x.elements())); };
  std::vector<double> o = size(p.d_o), lse(static_cast<size_t>(H * p.rows())), dq = size(p.q),
                      dkv = size(p.kv), dk_rope = size(p.k_rope);
  const auto at = [](auto& x, int64_t i) -> auto& {
    return x[static_cast<size_t>(i)];
  };
  const float *q = p.q.data<float>(), *kv = p.kv.data<float>(), *k_rope = p.k_rope.data<float>();
  const float* d_o = p.d_o.data<float>();
  for (int64_t row = 0; row < p.rows(); ++row)
    for (int64_t h = 0; h < H; ++h) {
      const int64_t base = row / T * T;
      const int64_t start =
          p.mask.document_starts_T.defined() ? p.mask.document_starts_T.data<int32_t>()[row] : 0;
      const int64_t q_at = row * H * (N + R) + h * (N + R), o_at = row * H * V + h * V;
      const auto key_at = [&](int64_t j) { return j * H * (N + V) + h * (N + V); };
      std::vector<double> probability;
      double greatest = -1e300, sum = 0, row_dot = 0;
      for (int64_t j = base + start; j <= row; ++j) {
        double s = 0;
        for (int64_t i = 0; i < N; ++i) s += static_cast<double>(q[q_at + i]) * kv[key_at(j) + i];
        for (int64_t i = 0; i < R; ++i) s += static_cast<double>(q[q_at + N + i]) * k_rope[j * R + i];
        probability.push_back(s * p.shape.softmax_scale);
        greatest = std::max(greatest, probability.back());
      }
      for (double& s : probability) sum += s = std::exp(s - greatest);
      at(lse, h * p.rows() + row) = greatest + std::log(sum);
      for (double& s : probability) s /= sum;
      for (int64_t j = base + start; j <= row; ++j)
        for (int64_t v = 0; v < V; ++v)
          at(o, o_at + v) += at(probability, j - base - start) * kv[key_at(j) + N + v];
      for (int64_t v = 0; v < V; ++v) row_dot += d_o[o_at + v] * at(o, o_at + v);
      for (int64_t j = base + start; j <= row; ++j) {
        const double pr = at(probability, j - base - start);
        double dp = 0;
        for (int64_t v = 0; v < V; ++v) {
          dp += static_cast<double>(d_o[o_at + v]) * kv[key_at(j) + N + v];
          at(dkv, key_at(j) + N + v) += pr * d_o[o_at + v];
        }
        const double ds = pr * (dp - row_dot) * p.shape.softmax_scale;
        for (int64_t i = 0; i < N; ++i) {
          at(dq, q_at + i) += ds * kv[key_at(j) + i];
          at(dkv, key_at(j) + i) += ds * q[q_at + i];
        }
        for (int64_t i = 0; i < R; ++i) {
          at(dq, q_at + N + i) += ds * k_rope[j * R + i];
          at(dk_rope, j * R + i) += ds * q[q_at + N + i];
        }
      }
    }
  return {o, lse, dq, dkv, dk_rope};
}

constexpr const char* kNames[] = {"o", "lse", "dq", "dkv", "dk_rope"};

void expect_right(const Problem& p) {
  const std::vector<Tensor> got = same_everywhere([&](Exec& exec) { return run(exec, p); });
  const std::vector<std::vector<double>> wanted = expected(p);
  for (size_t i = 0; i < got.size(); ++i)
    if (!wanted[i].empty()) {
      EXPECT_LE(relative_error(got[i], wanted[i]), 3e-6) << kNames[i];
    }
}

TEST(Attention, PublishedHeadWidths) {
  expect_right(make_problem(1, 300, 2, 128, 64, 128));
}
TEST(Attention, SmallHeads) {
  expect_right(make_problem(2, 256, 3, 32, 16, 32));
}
TEST(Attention, OddWidths) {
  expect_right(make_problem(2, 131, 2, 7, 6, 5));
}
TEST(Attention, WidthsBeyondTwoChains) {
  expect_right(make_problem(1, 130, 1, 150, 140, 270));
}
TEST(Attention, NoRotaryPart) {
  expect_right(make_problem(1, 140, 2, 24, 0, 17));
}
TEST(Attention, OneRow) {
  expect_right(make_problem(3, 1, 2, 8, 4, 8));
}
TEST(Attention, OneWideHead) {
  expect_right(make_problem(1, 65, 1, 1, 1, 1));
}

TEST(Attention, PackedDocuments) {
  Problem p = make_problem(2, 517, 2, 20, 12, 24);
  p.mask.document_starts_T = document_starts(2, 517);
  expect_right(p);
}

// A document's results do not depend on what else is packed beside it, beyond where it lies.
TEST(Attention, DocumentsAreIsolatedToTheBit) {
  register_kernels();
  ThreadPool pool(2);
  Exec exec{Device::cpu, &pool, &allocator(), DType::f32};
  Problem p = make_problem(1, 400, 2, 20, 12, 24);
  std::vector<int32_t> starts(400, 0);
  std::fill(starts.begin() + 150, starts.end(), 150);
  p.mask.document_starts_T = i32_tensor(starts, {400});
  const std::vector<Tensor> before = run(exec, p);
  for (const Tensor* x : {&p.q, &p.kv, &p.k_rope, &p.d_o})
    x->rows(0, 150).copy_from(random_tensor(x->rows(0, 150).shape(), 8));
  const std::vector<Tensor> after = run(exec, p);
  for (size_t i : {0, 2, 3, 4}) {
    EXPECT_TRUE(same_bits(before[i].rows(150, 400), after[i].rows(150, 400))) << kNames[i];
    EXPECT_FALSE(same_bits(before[i].rows(0, 150), after[i].rows(0, 150))) << kNames[i];
  }
}

TEST(Attention, SplittingTheBatchChangesNoBit) {
  register_kernels();
  ThreadPool pool(2);
  Exec exec{Device::cpu, &pool, &allocator(), DType::f32};
  const int64_t T = 200;
  Problem whole = make_problem(3, T, 2, 24, 8, 16);
  whole.mask.document_starts_T = document_starts(3, T);
  const std::vector<Tensor> together = run(exec, whole);
  for (int64_t sample = 0; sample < 3; ++sample) {
    const auto part = [&](const Tensor& x) { return x.rows(sample * T, (sample + 1) * T); };
    Problem p = whole;
    p.mask = {1, T, part(whole.mask.document_starts_T)};
    p.q = part(whole.q), p.kv = part(whole.kv), p.k_rope = part(whole.k_rope), p.d_o = part(whole.d_o);
    const std::vector<Tensor> alone = run(exec, p);
    for (size_t i : {0, 2, 3, 4}) EXPECT_TRUE(same_bits(alone[i], part(together[i]))) << kNames[i];
  }
}

// Scores far beyond exp's range, and equal ones.
TEST(Attention, ExtremeScores) {
  Problem p = make_problem(1, 200, 1, 16, 8, 16);
  for (float& value : p.q.span<float>()) value *= 100;
  const std::vector<Tensor> got = same_everywhere([&](Exec& exec) { return run(exec, p); });
  EXPECT_LE(relative_error(got[0], expected(p)[0]), 1e-4);
}

}  // namespace
}  // namespace moray::cpu::test
