// T rows, H heads, N qk_nope_head_dim, R qk_rope_head_dim, V v_head_dim.
#include "ops/mla_attention.h"

#include <gtest/gtest.h>

#include <cmath>

#include "ops/tolerances.h"
#include "tests/support/gradient_check.h"
#include "tests/support/workbench.h"

namespace moray {
namespace {

struct AttentionCase {
  int64_t samples, rows_per_sample;
  MlaShape shape;
  int64_t document_rows = 0;  // documents of this many rows a sample, the first shorter; 0: no isolation
};

void PrintTo(const AttentionCase& c, std::ostream* os) {
  *os << c.samples << "x" << c.rows_per_sample << " rows, " << c.shape.heads << " heads of "
      << c.shape.qk_nope_head_dim << "+" << c.shape.qk_rope_head_dim << "/" << c.shape.v_head_dim
      << ", documents of " << c.document_rows;
}

AttentionMask mask_of(const AttentionCase& c, Workbench& bench) {
  AttentionMask mask{c.samples, c.rows_per_sample, {}};
  if (c.document_rows == 0) return mask;
  std::vector<int32_t> starts;
  for (int64_t s = 0; s < c.samples; ++s)
    for (int64_t t = 0; t < c.rows_per_sample; ++t) {
      const int64_t shift = (s + 1) % c.document_rows;  // other borders in every sample
      starts.push_back(static_cast<int32_t>(
          std::max<int64_t>(0, (t + shift) / c.document_rows * c.document_rows - shift)));
    }
  mask.document_starts_T = bench.ints({c.samples * c.rows_per_sample}, starts);
  return mask;
}

struct Attention {
  Tensor q, kv, k_rope, d_o, o, lse, dq, dkv, dk_rope;

  Attention(const AttentionCase& c, Workbench& bench) {
    const int64_t T = c.samples * c.rows_per_sample, R = c.shape.qk_rope_head_dim;
    q = bench.normal("q", {T, c.shape.q_width()});
    kv = bench.normal("kv", {T, c.shape.kv_width()});
    k_rope = bench.normal("k_rope", {T, R});
    d_o = bench.normal("d_o", {T, c.shape.o_width()});
    o = bench.normal("stale o", {T, c.shape.o_width()});
    lse = bench.wide("stale lse", {c.shape.heads, T});
    dq = bench.normal("stale dq", q.shape());
    dkv = bench.normal("stale dkv", kv.shape());
    dk_rope = bench.normal("stale dk_rope", k_rope.shape());
  }
  void forward(const AttentionCase& c, const AttentionMask& mask, Exec& exec) const {
    mla_attention_forward(exec, q, kv, k_rope, c.shape, mask, o, lse);
  }
  void backward(const AttentionCase& c, const AttentionMask& mask, Exec& exec) const {
    mla_attention_backward(exec, d_o, q, kv, k_rope, o, lse, c.shape, mask, dq, dkv, dk_rope);
  }
};

class MlaAttention : public testing::TestWithParam<AttentionCase> {};

TEST_P(MlaAttention, AgreesWithReference) {
  const OpCase op = [](Workbench& bench) {
    const AttentionCase& c = GetParam();
    const AttentionMask mask = mask_of(c, bench);
    const Attention a(c, bench);
    a.forward(c, mask, bench.exec);
    a.backward(c, mask, bench.exec);
    NamedOutputs outputs{{"o", a.o}, {"lse", a.lse}, {"dkv", a.dkv}};
    // The weight of an only key is 1 whatever its score: those gradients are zero, which OnlyKeys looks at.
    if (c.rows_per_sample > 1 && c.document_rows != 1)
      outputs.insert(outputs.end(), {{"dq", a.dq}, {"dk_rope", a.dk_rope}});
    return outputs;
  };
  expect_close(tolerance::kAttention, op);
  expect_same_bits_on_threads(op);
  expect_close_bf16(tolerance::kAttentionBf16, op);
  expect_same_bf16_bits_on_threads(op);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, MlaAttention,
    testing::Values(AttentionCase{1, 1, {1, 4, 2, 3, 0.4}}, AttentionCase{3, 1, {2, 5, 2, 7, 0.4}},
                    AttentionCase{1, 127, {2, 16, 8, 16, 0.2}}, AttentionCase{2, 128, {1, 32, 16, 24, 0.14}},
                    AttentionCase{1, 129, {3, 7, 4, 5, 0.3}}, AttentionCase{2, 257, {2, 13, 6, 11, 0.23}},
                    AttentionCase{1, 257, {2, 128, 64, 128, 0.072}}, AttentionCase{1, 37, {2, 8, 4, 8, 1}},
                    AttentionCase{2, 131, {2, 16, 8, 16, 0.2}, 1},
                    AttentionCase{2, 129, {2, 16, 8, 16, 0.2}, 7},
                    AttentionCase{3, 257, {2, 13, 6, 11, 0.23}, 130},
                    AttentionCase{1, 400, {1, 16, 8, 8, 0.2}, 128}));

// A row of constant queries over constant keys averages the values it sees: a closed form with nothing of the
// kernel.
TEST(MlaAttentionReference, EqualScoresAverageTheValues) {
  Workbench bench(Device::reference, DType::f64);
  const AttentionCase c{1, 5, {1, 1, 2, 1, 1}, 0};
  const Attention a(c, bench);
  a.q.fill_zero();
  a.forward(c, mask_of(c, bench), bench.exec);
  double sum = 0;
  for (int64_t t = 0; t < 5; ++t) {
    sum += a.kv.data<double>()[2 * t + 1];
    EXPECT_NEAR(a.o.data<double>()[t], sum / static_cast<double>(t + 1), 1e-14);
    EXPECT_NEAR(a.lse.data<double>()[t], std::log(static_cast<double>(t + 1)), 1e-14);
  }
}

TEST(MlaAttention, OnlyKeys) {
  for (const Device device : {Device::reference, Device::cpu}) {
    const AttentionCase c{2, 130, {2, 16, 8, 16, 0.2}, 1};
    Workbench bench(device, DType::f32);
    const AttentionMask mask = mask_of(c, bench);
    const Attention a(c, bench);
    a.forward(c, mask, bench.exec);
    a.backward(c, mask, bench.exec);
    for (float g : a.dq.span<float>()) ASSERT_NEAR(g, 0, 1e-5) << device_name(device);
    for (float g : a.dk_rope.span<float>()) ASSERT_NEAR(g, 0, 1e-5) << device_name(device);
  }
}

// Isolated documents give what each gives alone.
TEST(MlaAttention, DocumentsAreAlone) {
  for (auto [device, dtype] :
       {std::pair{Device::reference, DType::f64}, std::pair{Device::cpu, DType::f32}}) {
    Workbench bench(device, dtype);
    const AttentionCase packed{1, 140, {2, 8, 4, 6, 0.3}}, alone{1, 10, packed.shape};
    AttentionMask mask{1, 140, bench.exec.empty_i32({140})};
    for (int32_t t = 0; t < 140; ++t) mask.document_starts_T.data<int32_t>()[t] = t < 130 ? 0 : 130;
    const Attention a(packed, bench);
    Attention b(alone, bench);
    a.forward(packed, mask, bench.exec);
    b.q.copy_from(a.q.rows(130, 140));
    b.kv.copy_from(a.kv.rows(130, 140));
    b.k_rope.copy_from(a.k_rope.rows(130, 140));
    b.forward(alone, {1, 10, {}}, bench.exec);
    for (int64_t i = 0; i < b.o.elements(); ++i) {
      const Tensor tail = a.o.rows(130, 140);
      if (dtype == DType::f64)
        EXPECT_EQ(tail.data<double>()[i], b.o.data<double>()[i]);
      else
        EXPECT_NEAR(tail.data<float>()[i], b.o.data<float>()[i], 1e-6f);
    }
  }
}

class MlaAttentionGradients : public testing::TestWithParam<AttentionCase> {};

TEST_P(MlaAttentionGradients, AgreeWithDifferences) {
  const AttentionCase& c = GetParam();
  Workbench bench(Device::reference, DType::f64);
  const AttentionMask mask = mask_of(c, bench);
  const Attention a(c, bench);
  const auto loss = [&] {
    a.forward(c, mask, bench.exec);
    return dot(a.o, a.d_o);
  };
  loss();
  a.backward(c, mask, bench.exec);
  expect_gradients({{"q", a.q, a.dq}, {"kv", a.kv, a.dkv}, {"k_rope", a.k_rope, a.dk_rope}}, loss);
}

INSTANTIATE_TEST_SUITE_P(Shapes, MlaAttentionGradients,
                         testing::Values(AttentionCase{2, 6, {2, 3, 2, 4, 0.4}},
                                         AttentionCase{2, 9, {2, 3, 2, 4, 0.4}, 4},
                                         AttentionCase{1, 140, {1, 3, 2, 2, 0.4}}));

// Chunks of a prompt, wherever they are cut: the bits of the whole.
TEST(MlaAttention, ChunksHaveTheBitsOfTheWhole) {
  Workbench bench(Device::cpu, DType::f32, 2);
  const AttentionCase c{1, 300, {3, 16, 8, 12, 0.2}};
  const Attention whole(c, bench);
  whole.forward(c, {1, c.rows_per_sample, {}}, bench.exec);
  for (const std::vector<int64_t>& cuts : {std::vector<int64_t>{128, 256}, {1, 2, 130, 299}, {127, 129}}) {
    int64_t begin = 0;
    std::vector<int64_t> ends = cuts;
    ends.push_back(c.rows_per_sample);
    for (int64_t end : ends) {
      const Tensor o = bench.empty({end - begin, c.shape.o_width()}),
                   lse = bench.empty({c.shape.heads, end - begin});
      mla_attention_forward(bench.exec, whole.q.rows(begin, end), whole.kv.rows(0, end),
                            whole.k_rope.rows(0, end), c.shape, {1, end, {}, begin}, o, lse);
      EXPECT_TRUE(std::ranges::equal(o.span<float>(), whole.o.rows(begin, end).span<float>())) << begin;
      for (int64_t h = 0; h < c.shape.heads; ++h)
        for (int64_t t = begin; t < end; ++t)
          EXPECT_EQ(lse.row(h).data<float>()[t - begin], whole.lse.row(h).data<float>()[t]) << t;
      begin = end;
    }
  }
}

}  // namespace
}  // namespace moray
