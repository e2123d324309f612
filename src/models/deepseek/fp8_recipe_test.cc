// That a block computes, keeps and sends in the forms of the V3 report (§3.2.2, §3.3).
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "backend/register.h"
#include "base/random.h"
#include "models/deepseek/compute_copy.h"

namespace moray::deepseek {
namespace {

ModelConfig small_model() {
  ModelConfig config;
  config.vocab_size = 64;
  config.hidden_size = 200;
  config.num_hidden_layers = 2;
  config.first_k_dense_replace = 1;
  config.intermediate_size = 300;
  config.moe_intermediate_size = 72;
  config.n_routed_experts = 8;
  config.num_experts_per_tok = 3;
  config.n_shared_experts = 1;
  config.num_attention_heads = 3;
  config.q_lora_rank = 72;
  config.kv_lora_rank = 40;
  config.qk_nope_head_dim = 24;
  config.qk_rope_head_dim = 16;
  config.v_head_dim = 48;
  config.num_nextn_predict_layers = 1;
  return config;
}

constexpr SampleRows kRows{.samples = 2, .rows_per_sample = 70};

struct InFp8 {
  Allocator allocator;
  ThreadPool pool{1};
  Exec exec{Device::cpu, &pool, &allocator, DType::f32};
  Model master, model;

  InFp8() {
    register_backends();
    master = allocate_model(exec, small_model());
    initialize(exec, master, 1);
    model = allocate_compute_copy(exec, master, Precision{PrecisionKind::fp8, true, true});
    refresh_compute_copy(exec, master, model);
    exec.dtype = DType::bf16;
  }
  Tensor random(Shape shape, uint64_t stream) {
    const Tensor x = exec.empty(shape);
    Random source(7, stream);
    for (bf16& value : x.span<bf16>())
      value =
          to_bf16(static_cast<float>(source.normal() * std::exp2(static_cast<double>(source.below(9)) - 4)));
    return x;
  }
  std::vector<float> numbers(const Activation& x) {
    std::vector<float> list;
    for (bf16 value : x.numbers(exec).span<bf16>()) list.push_back(to_float(value));
    return list;
  }
};

void expect_form(const Activation& x, CodeFormat format, bool powers_of_two, const char* what) {
  ASSERT_TRUE(x.has_codes() && !x.values.defined()) << what;
  EXPECT_EQ(x.codes.format, format) << what;
  bool all_powers = true;
  for (float scale : x.codes.scales.span<float>()) {
    int exponent = 0;
    all_powers = all_powers && std::frexp(scale, &exponent) == 0.5f;
  }
  EXPECT_EQ(all_powers, powers_of_two) << what;
}

// Each row as it would come over the wire: its token's row, quantized by itself.
void expect_rows_of(InFp8& run, const Activation& sent, const Tensor& tokens_TD, const DispatchPlan& plan) {
  const Activation each(
      row_tiles(run.exec, TensorClass::dispatch, tokens_TD, CodeFormat::f8_e4m3, ScaleFormat::power_of_two));
  const std::vector<float> got = run.numbers(sent), of_tokens = run.numbers(each);
  const int64_t width = tokens_TD.extent(1);
  const std::span<const int32_t> token_R = plan.token_R.span<int32_t>();
  for (size_t row = 0; row < token_R.size(); ++row)
    for (int64_t d = 0; d < width; ++d)
      ASSERT_EQ(got[row * static_cast<size_t>(width) + static_cast<size_t>(d)],
                of_tokens[static_cast<size_t>(token_R[row] * width + d)]);
}

TEST(Fp8Recipe, KeepsAndSendsInTheReportsForms) {
  InFp8 run;
  const ModelConfig config = small_model();
  const RopeTable rope = make_rope_table(run.exec, config, kRows.rows_per_sample);
  const LayerContext context{kRows, {kRows.samples, kRows.rows_per_sample, {}}, rope};
  const Block& block = run.model.layers[1];
  Block::Saved saved;
  RoutingStats stats;
  stats.load.resize(static_cast<size_t>(config.n_routed_experts));
  const Tensor x_TD = run.random({kRows.rows(), config.hidden_size}, 1);
  block.attention_forward(run.exec, x_TD, context, saved, stats);
  const Tensor u_TD = saved.u_TD;
  block.dispatch_forward(run.exec, context, saved);
  expect_form(saved.x, CodeFormat::f8_e4m3, true, "dispatch");
  expect_rows_of(run, saved.x, u_TD, saved.plan);
  block.experts_forward(run.exec, saved);
  (void)block.combine_forward(run.exec, saved);

  expect_form(saved.self_attn.o, CodeFormat::f12_e5m6, true, "attention's output");
  expect_form(saved.experts.x, CodeFormat::f8_e4m3, true, "experts' inputs, as they came");
  for (const Activation* kept : {&saved.experts.gate, &saved.experts.up, &saved.mlp.gate, &saved.mlp.up})
    expect_form(*kept, CodeFormat::f8_e4m3, false, "SwiGLU's inputs");
  EXPECT_FALSE(saved.self_attn.kv.defined() || saved.self_attn.q.defined());  // recomputed

  const Tensor dout_TD = run.random({kRows.rows(), config.hidden_size}, 2);
  Block::Deferred deferred;
  block.combine_backward(run.exec, dout_TD, saved, deferred);
  expect_form(deferred.dy, CodeFormat::f8_e4m3, true, "dispatched gradients");
  expect_rows_of(run, deferred.dy, dout_TD, saved.plan);
}

// Which products run in FP8: all linear layers and experts; not head, router, and the MTP module's eh_proj.
TEST(Fp8Recipe, QuantizesTheseWeights) {
  InFp8 run;
  std::set<const std::byte*> with_codes;
  int bf16_products = 0;
  run.model.visit_products([&](Tensor& weight, QuantizedTensor* codes) {
    if (codes != nullptr && codes->codes.defined()) {
      EXPECT_EQ(codes->tiling, Tiling::blocks);
      EXPECT_EQ(codes->format, CodeFormat::f8_e4m3);
      with_codes.insert(weight.raw());
    } else {
      EXPECT_EQ(weight.dtype(), DType::bf16);
      ++bf16_products;
    }
  });
  for (const Parameter& parameter : list_parameters(run.master)) {
    const bool linear = parameter.name.find("_proj") != std::string::npos;
    EXPECT_EQ(with_codes.contains(parameter.tensor->raw()),
              linear && parameter.name.find("eh_proj") == std::string::npos)
        << parameter.name;
  }
  EXPECT_EQ(bf16_products, 2);  // lm_head and eh_proj
}

}  // namespace
}  // namespace moray::deepseek
