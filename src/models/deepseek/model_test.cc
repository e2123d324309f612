#include "models/deepseek/model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "backend/register.h"
#include "base/random.h"
#include "models/deepseek/training.h"
#include "ops/elementwise.h"
#include "tests/support/gradient_check.h"

namespace moray::deepseek {
namespace {

ModelConfig tiny_v3() {
  ModelConfig config;
  config.vocab_size = 29;
  config.hidden_size = 12;
  config.num_hidden_layers = 2;
  config.first_k_dense_replace = 1;
  config.intermediate_size = 10;
  config.moe_intermediate_size = 7;
  config.n_routed_experts = 8;
  config.num_experts_per_tok = 3;
  config.n_shared_experts = 1;
  config.n_group = 4;
  config.topk_group = 2;
  config.routed_scaling_factor = 2.5;
  config.num_attention_heads = 2;
  config.q_lora_rank = 6;
  config.kv_lora_rank = 5;
  config.qk_nope_head_dim = 4;
  config.qk_rope_head_dim = 4;
  config.v_head_dim = 3;
  config.rope_scaling =
      YarnConfig{.factor = 4, .mscale = 1, .mscale_all_dim = 1, .original_max_position_embeddings = 8};
  config.num_nextn_predict_layers = 2;
  config.initializer_range = 0.3;
  return config;
}

ModelConfig tiny_v2() {
  ModelConfig config = tiny_v3();
  config.scoring_func = ScoringFunc::softmax;
  config.norm_topk_prob = false;
  config.routed_scaling_factor = 1;
  config.q_lora_rank = 0;
  config.n_shared_experts = 2;
  config.num_nextn_predict_layers = 0;
  config.rope_scaling.reset();
  return config;
}

// A model, a micro-batch of two samples, and the whole training loss of it.
struct Fixture {
  static constexpr int64_t kSamples = 2, kLength = 7, kGroups = 2;
  Allocator allocator;
  ThreadPool pool{2};
  Exec exec;
  Model model, gradients;
  MicroBatch batch;
  RopeTable rope;
  LossScales scales{.main = 1.0 / 14, .mtp = 0.3 / 2 / 14, .balance = 0.05 / 2};
  BatchStats stats;

  Fixture(const ModelConfig& config, Device device, DType dtype)
      : exec{device, &pool, &allocator, dtype}, model(allocate_model(exec, config)) {
    initialize(exec, model, 5);
    Random random(9, 0);
    for (Block& block : model.layers)
      if (block.is_moe && block.gate.has_bias) fill_bias(block.gate.bias_E, random);
    for (MtpModule& module : model.mtp) fill_bias(module.block.gate.bias_E, random);
    gradients = allocate_gradients(exec, model, kGroups);
    rope = make_rope_table(exec, config, kLength);
    batch.rows = {kSamples, kLength, 1, kGroups};
    for (int64_t shift = 0; shift < config.num_nextn_predict_layers + 2; ++shift) {
      batch.shifted_T.push_back(exec.empty_i32({kSamples * kLength}));
      Random tokens(3, static_cast<uint64_t>(shift));
      for (int32_t& id : batch.shifted_T.back().span<int32_t>())
        id = static_cast<int32_t>(tokens.below(static_cast<uint64_t>(config.vocab_size)));
    }
    batch.document_starts_T = exec.empty_i32({kSamples * kLength});
    for (int64_t t = 0; t < kSamples * kLength; ++t)
      batch.document_starts_T.data<int32_t>()[t] = t % kLength >= 4 && t < kLength ? 4 : 0;
    stats = make_batch_stats(config);
  }

  void fill_bias(const Tensor& bias_E, Random& random) {
    for (int64_t e = 0; e < bias_E.elements(); ++e) {
      const double value = 0.2 * random.normal() - 0.6;
      if (bias_E.dtype() == DType::f64)
        bias_E.data<double>()[e] = value;
      else
        bias_E.data<float>()[e] = static_cast<float>(value);
    }
  }

  // Any routing serves: the gradient is that of the function with these experts.
  void fix_routing() {
    const int64_t experts = model.config.n_routed_experts, choices = model.config.num_experts_per_tok;
    Random random(17, 0);
    for (RoutingStats& routing : stats.routing) {
      routing.fixed_ids_TK = exec.empty_i32({kSamples * kLength, choices});
      int32_t* id = routing.fixed_ids_TK.data<int32_t>();
      for (int64_t t = 0; t < kSamples * kLength; ++t) {
        const uint64_t first = random.below(static_cast<uint64_t>(experts - choices + 1));
        for (int64_t k = 0; k < choices; ++k) *id++ = static_cast<int32_t>(first) + static_cast<int32_t>(k);
      }
    }
  }

  double loss() {
    for (double& sum : stats.loss_sums) sum = 0;
    for (RoutingStats& routing : stats.routing) routing.balance_loss = 0;
    forward_loss(exec, model, batch, rope, stats);
    double total = scales.main * stats.loss_sums[0];
    for (size_t depth = 1; depth < stats.loss_sums.size(); ++depth)
      total += scales.mtp * stats.loss_sums[depth];
    for (const RoutingStats& routing : stats.routing) total += scales.balance * routing.balance_loss;
    return total;
  }
};

// A gradient summed over its accumulators, in the shape of its weight.
Tensor total_gradient(Fixture& fixture, const Parameter& weight, const Parameter& gradient) {
  if (weight.kind == ParameterKind::experts) return *gradient.tensor;
  const Tensor total = fixture.exec.zeros(weight.tensor->shape());
  for (int64_t slice = 0; slice < gradient.tensor->extent(0); ++slice)
    add(fixture.exec, total, gradient.tensor->row(slice), total);
  return total;
}

std::vector<NamedGradient> gradients_of(Fixture& fixture) {
  fixture.fix_routing();
  forward_backward(fixture.exec, fixture.model, fixture.batch, fixture.scales, fixture.rope,
                   fixture.gradients, fixture.stats);
  std::vector<NamedGradient> list;
  const std::vector<Parameter> weights = list_parameters(fixture.model),
                               gradients = list_parameters(fixture.gradients);
  for (size_t i = 0; i < weights.size(); ++i)
    if (weights[i].kind != ParameterKind::buffer)
      list.push_back(
          {weights[i].name, *weights[i].tensor, total_gradient(fixture, weights[i], gradients[i])});
  return list;
}

class ModelGradients : public testing::TestWithParam<bool> {
 protected:
  static void SetUpTestSuite() { register_backends(); }
  ModelConfig config() const { return GetParam() ? tiny_v3() : tiny_v2(); }
};

TEST_P(ModelGradients, EqualCentralDifferences) {
  Fixture fixture(config(), Device::reference, DType::f64);
  const std::vector<NamedGradient> gradients = gradients_of(fixture);
  // Small steps: the balance loss counts who is among the top experts, which must not change under them.
  expect_gradients(gradients, [&] { return fixture.loss(); }, 1e-6,
                   {.step = 1e-3, .max_elements = 12, .directions = 2});
}

TEST_P(ModelGradients, OfTheFastKernelsEqualFloat64) {
  Fixture exact(config(), Device::reference, DType::f64), fast(config(), Device::cpu, DType::f32);
  const std::vector<NamedGradient> expected = gradients_of(exact), got = gradients_of(fast);
  ASSERT_EQ(expected.size(), got.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    double difference = 0, norm = 0;
    for (int64_t j = 0; j < expected[i].gradient.elements(); ++j) {
      const double e = expected[i].gradient.data<double>()[j], g = got[i].gradient.data<float>()[j];
      difference += (e - g) * (e - g);
      norm += e * e;
    }
    EXPECT_GT(norm, 0) << expected[i].name;
    EXPECT_LE(std::sqrt(difference / norm), 1e-4) << expected[i].name;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, ModelGradients, testing::Bool(),
                         [](const auto& tested) { return tested.param ? "V3" : "V2"; });

TEST(ModelGradients, AMistakeIsFound) {
  register_backends();
  Fixture fixture(tiny_v3(), Device::reference, DType::f64);
  const std::vector<NamedGradient> gradients = gradients_of(fixture);
  fixture.scales.balance *= 2;  // the loss is now another function than the one whose gradient was taken
  bool found = false;
  for (const GradientError& error : check_gradients(gradients, [&] { return fixture.loss(); },
                                                    {.step = 1e-3, .max_elements = 4, .directions = 1}))
    found = found || error.error > 1e-6;
  EXPECT_TRUE(found);
}

TEST(Model, NamesAreHuggingFaces) {
  Allocator allocator;
  ThreadPool pool(1);
  const Exec exec{Device::reference, &pool, &allocator, DType::f32};
  Model model = allocate_model(exec, tiny_v3());
  std::vector<std::string> names;
  for (const NamedWeight& weight : named_weights(model)) names.push_back(weight.name);
  for (const char* name :
       {"model.embed_tokens.weight", "model.layers.0.mlp.gate_proj.weight",
        "model.layers.0.self_attn.q_a_proj.weight", "model.layers.1.self_attn.kv_a_proj_with_mqa.weight",
        "model.layers.1.mlp.gate.e_score_correction_bias", "model.layers.1.mlp.experts.7.down_proj.weight",
        "model.layers.1.mlp.shared_experts.up_proj.weight", "model.layers.2.eh_proj.weight",
        "model.layers.3.shared_head.norm.weight", "model.layers.3.mlp.experts.0.gate_proj.weight",
        "model.norm.weight", "lm_head.weight"})
    EXPECT_EQ(std::count(names.begin(), names.end(), name), 1) << name;
}

}  // namespace
}  // namespace moray::deepseek
