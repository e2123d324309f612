// What a step changes and what a skipped one leaves alone; what evaluation sums.
#include "train/trainer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "backend/register.h"
#include "base/files.h"
#include "base/random.h"
#include "train/evaluate.h"

namespace moray {
namespace {

constexpr int64_t kVocabulary = 31, kLength = 9, kBatch = 2;

deepseek::ModelConfig small_model() {
  deepseek::ModelConfig config;
  config.vocab_size = kVocabulary;
  config.hidden_size = 12;
  config.num_hidden_layers = 2;
  config.first_k_dense_replace = 1;
  config.intermediate_size = 10;
  config.moe_intermediate_size = 6;
  config.n_routed_experts = 4;
  config.num_experts_per_tok = 2;
  config.n_shared_experts = 1;
  config.num_attention_heads = 2;
  config.kv_lora_rank = 8;
  config.qk_nope_head_dim = config.v_head_dim = 4;
  config.qk_rope_head_dim = 4;
  config.num_nextn_predict_layers = 1;
  config.initializer_range = 0.3;
  return config;
}

// Sample n holds tokens from 1 on; token 0 is in the second batch only.
void sample(uint64_t n, std::span<int32_t> tokens, std::span<int32_t> starts) {
  Random random(11, n);
  for (int32_t& token : tokens) token = 1 + static_cast<int32_t>(random.below(kVocabulary - 1));
  if (n == kBatch) tokens[3] = 0;
  std::fill(starts.begin(), starts.end(), 0);
}

struct Training {
  Allocator allocator;
  ThreadPool pool{2};
  Exec exec{Device::cpu, &pool, &allocator, DType::f32};
  std::unique_ptr<Trainer> trainer;

  explicit Training(TrainConfig config = {}) {
    config.sequence_length = kLength;
    config.tokens = 1 << 20;
    config.batch_size = Schedule(kBatch);
    config.ema_decay = 0.75;
    config.max_bad_steps = 2;
    trainer = std::make_unique<Trainer>(exec, small_model(), config);
  }
  // Weights and balance bias, moments, average.
  uint64_t state() {
    uint64_t state = 0;
    for (deepseek::Model* tree : {&trainer->model(), &trainer->optimizer().first_moments(),
                                  &trainer->optimizer().second_moments(), trainer->average()})
      for (const deepseek::NamedWeight& weight : deepseek::named_weights(*tree))
        if (weight.tensor.defined())
          state = mix64(state, checksum({weight.tensor.raw(), weight.tensor.bytes()}));
    return state;
  }
  void spoil(float value) { trainer->model().embed_tokens_VD.data<float>()[0] = value; }
};

class TrainerStep : public testing::TestWithParam<float> {
 protected:
  static void SetUpTestSuite() { register_backends(); }
};

TEST_P(TrainerStep, ThatIsNotFiniteChangesNothingButTheCounters) {
  Training training, control;
  for (Training* each : {&training, &control}) EXPECT_FALSE(each->trainer->step(sample).skipped);
  ASSERT_EQ(training.state(), control.state());

  const float good = training.trainer->model().embed_tokens_VD.data<float>()[0];
  training.spoil(GetParam());
  const uint64_t before = training.state();
  EXPECT_TRUE(training.trainer->step(sample).skipped);
  EXPECT_EQ(training.state(), before);
  EXPECT_EQ(training.trainer->optimizer().steps(), 1);
  training.spoil(good);

  // The control goes on as if the batch had not been there.
  Counters& counters = control.trainer->counters();
  ++counters.step;
  counters.tokens += kBatch * kLength;
  counters.samples += kBatch;
  for (Training* each : {&training, &control}) EXPECT_FALSE(each->trainer->step(sample).skipped);
  EXPECT_EQ(training.state(), control.state());
  EXPECT_NE(training.state(), before);
  EXPECT_EQ(training.trainer->counters().skipped_steps, 1);
  EXPECT_EQ(training.trainer->counters().bad_in_a_row, 0);
}

INSTANTIATE_TEST_SUITE_P(With, TrainerStep,
                         testing::Values(std::numeric_limits<float>::quiet_NaN(),
                                         std::numeric_limits<float>::infinity(), 3e38f));

// In every precision: a weight, an activation and a loss that are not finite, each named where it arose.
TEST(Trainer, NamesWhereANumberIsNotFinite) {
  register_backends();
  for (const PrecisionKind kind : {PrecisionKind::f32, PrecisionKind::bf16, PrecisionKind::fp8}) {
    TrainConfig config;
    config.precision.kind = kind;
    const auto finding = [&](const auto& spoil) {
      Training training(config);
      spoil(training.trainer->model());
      training.trainer->refresh_compute_model();
      const StepResult result = training.trainer->step(sample);
      EXPECT_TRUE(result.skipped);
      return result.non_finite;
    };
    EXPECT_EQ(finding([](deepseek::Model& model) {
                model.layers[1].experts.up_proj_EFD.data<float>()[0] =
                    std::numeric_limits<float>::quiet_NaN();
              }),
              "weight model.layers.1.mlp.experts.0.up_proj.weight: 1 NaN, 0 infinite");
    // Finite weights whose product overflows.
    const std::string overflow = finding([](deepseek::Model& model) {
      for (float& w : model.layers[1].self_attn.kv_a_proj_with_mqa.weight_OI.span<float>()) w *= 1e37f;
      for (float& w : model.layers[1].input_layernorm.weight_D.span<float>()) w *= 1e3f;
    });
    EXPECT_TRUE(overflow.starts_with("forward of model.layers.1: ")) << overflow;
    EXPECT_NE(overflow.find(" with model.layers.1.self_attn.kv_a_proj_with_mqa.weight"), std::string::npos)
        << overflow;
    // A residual stream that stays finite, but whose squares do not.
    const std::string stream = finding([](deepseek::Model& model) {
      for (float& w : model.embed_tokens_VD.span<float>()) w *= 1e25f;
    });
    EXPECT_TRUE(stream.starts_with("forward of model.layers.0: rms_norm_forward")) << stream;
    const std::string head = finding([](deepseek::Model& model) {
      for (float& w : model.lm_head_VD.span<float>()) w *= 2e38f;
    });
    EXPECT_TRUE(head.starts_with("head: cross_entropy_forward_backward with lm_head.weight")) << head;
  }
}

TEST(Trainer, AveragesEveryStepIncludingTheBalanceBias) {
  register_backends();
  Training training;
  const auto copy = [](deepseek::Model& tree) {
    std::vector<float> values;
    for (const deepseek::NamedWeight& weight : deepseek::named_weights(tree))
      for (float value : weight.tensor.span<float>()) values.push_back(value);
    return values;
  };
  std::vector<float> expected = copy(training.trainer->model());
  for (int step = 0; step < 3; ++step) {
    EXPECT_FALSE(training.trainer->step(sample).skipped);
    const std::vector<float> weights = copy(training.trainer->model());
    for (size_t i = 0; i < expected.size(); ++i)
      expected[i] = std::fma(0.25f, weights[i] - expected[i], expected[i]);
  }
  EXPECT_EQ(copy(*training.trainer->average()), expected);
}

// −log p of `target` after `ids`, from the states by plain sums.
double nats_of(Training& training, std::span<const int32_t> ids, int32_t target) {
  const auto length = static_cast<int64_t>(ids.size());
  const Tensor ids_T = training.exec.empty_i32({length});
  std::copy(ids.begin(), ids.end(), ids_T.data<int32_t>());
  const deepseek::Model& model = training.trainer->model();
  const Tensor states = deepseek::hidden_states(
      training.exec, model, ids_T, {.samples = 1, .rows_per_sample = length}, training.trainer->rope());
  std::vector<double> logits;
  double sum = 0;
  for (int64_t v = 0; v < kVocabulary; ++v) {
    double logit = 0;
    for (int64_t d = 0; d < states.extent(1); ++d)
      logit += static_cast<double>(states.row(length - 1).data<float>()[d]) *
               static_cast<double>(model.lm_head_VD.row(v).data<float>()[d]);
    logits.push_back(logit);
    sum += std::exp(logit);
  }
  return std::log(sum) - logits[static_cast<size_t>(target)];
}

TEST(Evaluate, CountsEveryTokenOfAWindowOnceWhateverTheirPlaceAndLength) {
  register_backends();
  Training training;
  std::vector<int32_t> stream(3 * kLength);
  for (size_t i = 0; i < stream.size(); ++i) stream[i] = static_cast<int32_t>(7 * i % kVocabulary);
  const TokenReader read = [&](int64_t begin, std::span<int32_t> out) {
    std::copy_n(stream.begin() + begin, out.size(), out.begin());
  };
  constexpr int32_t kBeforeFirst = 30;
  const auto check = [&](const std::vector<TokenWindow>& windows) {
    double expected = 0;
    int64_t tokens = 0;
    for (const auto& [begin, length] : windows)
      for (int64_t t = begin; t < begin + length; ++t, ++tokens) {
        std::vector<int32_t> ids;
        for (int64_t before = begin - 1; before < t; ++before)
          ids.push_back(before < 0 ? kBeforeFirst : stream[static_cast<size_t>(before)]);
        expected += nats_of(training, ids, stream[static_cast<size_t>(t)]);
      }
    const Evaluation evaluation = evaluate(training.exec, training.trainer->model(), training.trainer->rope(),
                                           read, windows, kBeforeFirst);
    EXPECT_EQ(evaluation.tokens, tokens);
    EXPECT_NEAR(evaluation.nats, expected, 1e-5 * expected) << tokens << " tokens";
  };
  for (int64_t tokens : {int64_t{1}, kLength - 1, kLength, kLength + 1, 2 * kLength + 4, 3 * kLength})
    check(spread_windows(tokens, tokens, kLength));
  check({{5, kLength}, {2 * kLength, kLength}, {3 * kLength - 2, 2}});
}

TEST(SpreadWindows, LieEvenlyOverTheWholeStream) {
  using Windows = std::vector<TokenWindow>;
  EXPECT_EQ(spread_windows(95, 30, 10), (Windows{{10, 10}, {50, 10}, {80, 10}}));
  EXPECT_EQ(spread_windows(95, 1, 10), (Windows{{50, 10}})) << "a whole window";
  EXPECT_EQ(spread_windows(25, 25, 10), (Windows{{0, 10}, {10, 10}, {20, 5}})) << "all of it";
  EXPECT_EQ(spread_windows(25, 1000, 10), spread_windows(25, 25, 10));
  EXPECT_EQ(spread_windows(7, 3, 10), (Windows{{0, 7}}));
  EXPECT_TRUE(spread_windows(0, 5, 10).empty());
  EXPECT_TRUE(spread_windows(95, 0, 10).empty());
  // No window twice, each within its share of the stream.
  constexpr int64_t kStream = 1237, kWindow = 16, kAll = 78;
  for (int64_t wanted = 1; wanted <= kAll; ++wanted) {
    const Windows windows = spread_windows(kStream, std::min(wanted * kWindow, kStream), kWindow);
    ASSERT_EQ(windows.size(), static_cast<size_t>(wanted));
    for (int64_t i = 0; i < wanted; ++i) {
      const auto [begin, length] = windows[static_cast<size_t>(i)];
      EXPECT_EQ(begin % kWindow, 0);
      EXPECT_EQ(length, std::min(kWindow, kStream - begin));
      EXPECT_GE(begin / kWindow, i * kAll / wanted);
      EXPECT_LT(begin / kWindow * wanted, (i + 1) * kAll);
    }
  }
}

}  // namespace
}  // namespace moray
