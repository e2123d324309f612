// H heads, N qk_nope_head_dim, R qk_rope_head_dim, V v_head_dim, C kv_lora_rank, P positions.
#include "ops/mla_decode.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/random.h"
#include "ops/tolerances.h"
#include "tests/support/weight_cases.h"
#include "tests/support/workbench.h"

namespace moray {
namespace {

struct DecodeCase {
  MlaShape shape;
  int64_t latent, positions;
  DType cache = DType::f32;
  bool int8_weight = false;
};

void PrintTo(const DecodeCase& c, std::ostream* os) {
  *os << c.shape.heads << " heads of " << c.shape.qk_nope_head_dim << "+" << c.shape.qk_rope_head_dim << "/"
      << c.shape.v_head_dim << ", latents of " << c.latent << ", " << c.positions << " positions in "
      << dtype_name(c.cache);
}

// Latents [P, C] as codes of the FP8 form, by this file's own arithmetic.
void encode(const Tensor& latents, CachedLatents& past) {
  const int64_t positions = latents.extent(0), latent = latents.extent(1);
  Random random(5, 5);
  for (int64_t i = 0; i < latents.elements(); ++i) {
    float& scale = past.scales_PG.data<float>()[i / latent * past.scales_PG.extent(1) + i % latent / 128];
    if (i % latent % 128 == 0) scale = 0.004f + 0.002f * static_cast<float>(random.uniform());
    past.latents_PC.data<e4m3>()[i] = narrow<e4m3>(to_float(latents.data<bf16>()[i]) / scale);
  }
  ASSERT_EQ(past.latents_PC.extent(0), positions);
}

StoredWeight int8_weight(Workbench& bench, const Tensor& values) {
  Allocator& allocator = *bench.exec.allocator;
  const int64_t rows = values.extent(0), columns = values.extent(1);
  StoredWeight w{Tensor::empty(allocator, values.shape(), DType::i8),
                 Tensor::empty(allocator, {rows, int_row_scales(columns)}, DType::f32), 0};
  std::vector<float> row(static_cast<size_t>(columns));
  for (int64_t r = 0; r < rows; ++r) {
    std::ranges::transform(values.row(r).span<bf16>(), row.begin(), [](bf16 x) { return to_float(x); });
    EXPECT_TRUE(quantize_row_int8(row, w.values_OI.row(r).data<int8_t>(), w.scales.row(r).data<float>()));
  }
  return w;
}

struct Decode {
  Tensor q, q_latent, o_latent;
  CachedLatents past;
  StoredWeight kv_b;

  Decode(const DecodeCase& c, Workbench& bench) {
    const auto cached = [&](const char* name, Shape shape) {
      return c.cache == DType::f32 ? bench.normal(name, shape) : bench.normal_bf16(name, shape);
    };
    q = bench.normal("q", {1, c.shape.q_width()});
    q_latent = bench.empty({1, c.shape.heads * c.latent});
    past = {cached("latents", {c.positions, c.latent}),
            cached("k_rope", {c.positions, c.shape.qk_rope_head_dim}),
            {}};
    if (c.cache == DType::f8_e4m3) {
      const Tensor wide = past.latents_PC;
      past.latents_PC = Tensor::empty(*bench.exec.allocator, wide.shape(), DType::f8_e4m3);
      past.scales_PG =
          Tensor::empty(*bench.exec.allocator, {c.positions, (c.latent + 127) / 128}, DType::f32);
      encode(wide, past);
    }
    o_latent = bench.empty(q_latent.shape());
    const Tensor weight = bench.normal_bf16("kv_b", {c.shape.kv_width(), c.latent}, 0.1);
    kv_b = c.int8_weight ? int8_weight(bench, weight) : StoredWeight{weight, {}, 0};
  }
  NamedOutputs run(const DecodeCase& c, Exec& exec) const {
    mla_absorb(exec, q, kv_b, c.shape, q_latent);
    mla_attend(exec, q, q_latent, past, c.shape, o_latent);
    return {{"q_latent", q_latent}, {"o_latent", o_latent}};
  }
};

class MlaDecode : public testing::TestWithParam<DecodeCase> {};

TEST_P(MlaDecode, AgreesWithReference) {
  expect_close(tolerance::kAttention,
               [](Workbench& bench) { return Decode(GetParam(), bench).run(GetParam(), bench.exec); });
}

TEST_P(MlaDecode, DoesNotDependOnThreads) {
  expect_same_bits_on_threads(
      [](Workbench& bench) { return Decode(GetParam(), bench).run(GetParam(), bench.exec); });
}

TEST_P(MlaDecode, DoesNotDependOnInstructionSet) {
  std::vector<float> first;
  on_every_instruction_set([&] {
    Workbench bench(Device::cpu, DType::f32);
    const auto output = Decode(GetParam(), bench).run(GetParam(), bench.exec).back().second.span<float>();
    if (first.empty()) first.assign(output.begin(), output.end());
    EXPECT_EQ(std::memcmp(first.data(), output.data(), output.size_bytes()), 0);
  });
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, MlaDecode,
    testing::Values(
        DecodeCase{{4, 16, 8, 16, 0.2}, 32, 1}, DecodeCase{{16, 128, 64, 128, 0.07}, 512, 300, DType::bf16},
        DecodeCase{{16, 128, 64, 128, 0.07}, 512, 300, DType::f8_e4m3},
        DecodeCase{{3, 20, 10, 12, 0.15}, 200, 129, DType::f8_e4m3},
        DecodeCase{{3, 20, 10, 12, 0.15}, 72, 257},
        DecodeCase{{3, 20, 10, 12, 0.15}, 48, 2300},  // on one thread more blocks than whose parts are kept
        DecodeCase{{20, 16, 6, 8, 0.2}, 140, 2300, DType::bf16},
        DecodeCase{{20, 16, 6, 8, 0.2}, 48, 1300, DType::bf16},
        DecodeCase{{20, 130, 6, 8, 0.1}, 140, 128, DType::bf16},
        DecodeCase{{20, 130, 6, 8, 0.1}, 140, 128, DType::bf16, true}));

struct AbsorbCase {
  MlaShape shape;
  int64_t latent, tokens;
  DType weight;
};

void PrintTo(const AbsorbCase& c, std::ostream* os) {
  *os << c.shape.heads << " heads of " << c.shape.qk_nope_head_dim << "+" << c.shape.v_head_dim
      << ", latents of " << c.latent << ", " << c.tokens << " tokens, " << dtype_name(c.weight);
}

class MlaAbsorb : public testing::TestWithParam<AbsorbCase> {};

TEST_P(MlaAbsorb, HasTheReferencesBitsOnEveryInstructionSet) {
  const AbsorbCase& c = GetParam();
  const OpCase absorbed = [&](Workbench& bench) {
    const StoredWeight kv_b = weight_of({c.weight, c.tokens, c.latent, c.shape.kv_width()}, bench);
    const Tensor q_latent = bench.empty({c.tokens, c.shape.heads * c.latent});
    mla_absorb(bench.exec, bench.normal("q", {c.tokens, c.shape.q_width()}), kv_b, c.shape, q_latent);
    return NamedOutputs{{"q_latent", q_latent}};
  };
  on_every_instruction_set([&] {
    expect_reference_bits(absorbed);
    expect_same_bits_on_threads(absorbed);
  });
}

std::vector<AbsorbCase> absorb_cases() {
  std::vector<AbsorbCase> cases;
  for (const DType dtype : {DType::f32, DType::bf16, DType::f8_e4m3, DType::i8, DType::u8}) {
    const int64_t ragged = dtype == DType::u8 ? 160 : 141;  // rows of 4 bits are whole groups of 32
    cases.insert(cases.end(), {{{2, 128, 64, 128}, 512, 1, dtype},
                               {{20, 130, 6, 8}, ragged, 2, dtype},  // two blocks of a sum, 2 rows left over
                               {{3, 21, 10, 12}, 2 * ragged, 9, dtype},
                               {{1, 3, 2, 5}, 32, 4, dtype}});
    if (dtype != DType::u8) cases.push_back({{5, 9, 2, 4}, 7, 1, dtype});
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Shapes, MlaAbsorb, testing::ValuesIn(absorb_cases()));

// The two forms are one function: absorbed attention, times the value half of kv_b_proj, is the last row of
// expanded attention over keys and values rebuilt from the same latents.
TEST(MlaDecode, IsExpandedAttention) {
  const DecodeCase c{{4, 24, 16, 20, 0.15}, 40, 200};
  const OpCase expanded = [&](Workbench& bench) {
    const Decode d(c, bench);
    const Tensor kv = bench.empty({c.positions, c.shape.kv_width()}), o = bench.empty({1, c.shape.o_width()});
    weight_matmul(bench.exec, d.past.latents_PC, d.kv_b, kv);
    const AttentionMask mask{1, c.positions, {}, c.positions - 1};
    mla_attention_forward(bench.exec, d.q, kv, d.past.k_rope_PR, c.shape, mask, o,
                          bench.empty({c.shape.heads, 1}));
    return NamedOutputs{{"o", o}};
  };
  const OpCase absorbed = [&](Workbench& bench) {
    const Decode d(c, bench);
    d.run(c, bench.exec);
    const Tensor o = bench.empty({1, c.shape.o_width()});
    const int64_t nope = c.shape.qk_nope_head_dim, value = c.shape.v_head_dim;
    for (int64_t h = 0; h < c.shape.heads; ++h) {
      const Tensor out = bench.empty({1, value});
      const Tensor latent = d.o_latent.reshape({c.shape.heads, c.latent}).rows(h, h + 1);
      weight_matmul(bench.exec, latent, d.kv_b.rows(h * (nope + value) + nope, (h + 1) * (nope + value)),
                    out);
      std::memcpy(o.raw() + static_cast<size_t>(h) * out.bytes(), out.raw(), out.bytes());
    }
    return NamedOutputs{{"o", o}};
  };
  Workbench f64(Device::reference, DType::f64), f32(Device::cpu, DType::f32);
  const Tensor exact = expanded(f64)[0].second, also = absorbed(f64)[0].second;
  const Tensor near = absorbed(f32)[0].second;
  for (int64_t i = 0; i < exact.elements(); ++i) {
    EXPECT_NEAR(exact.data<double>()[i], also.data<double>()[i], 1e-13);
    EXPECT_NEAR(exact.data<double>()[i], static_cast<double>(near.data<float>()[i]), 1e-5);
  }
}

}  // namespace
}  // namespace moray
