// Checkpoints whose model/ is narrower than the weights: what it holds, and that training goes on from
// state/.
#include "train/train_state.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "backend/register.h"
#include "base/random.h"
#include "base/test_help.h"
#include "checkpoint/fp8_weights.h"
#include "train/model_folder.h"

namespace moray {
namespace {

using test::error_of;

constexpr int64_t kVocabulary = 31, kLength = 9;

// Wider than a block of 128 here and there, and no multiple of it.
deepseek::ModelConfig ragged_model() {
  deepseek::ModelConfig config;
  config.vocab_size = kVocabulary;
  config.hidden_size = 136;
  config.num_hidden_layers = 2;
  config.first_k_dense_replace = 1;
  config.intermediate_size = 140;
  config.moe_intermediate_size = 6;
  config.n_routed_experts = 4;
  config.num_experts_per_tok = 2;
  config.n_shared_experts = 1;
  config.num_attention_heads = 2;
  config.kv_lora_rank = 8;
  config.qk_nope_head_dim = config.v_head_dim = 4;
  config.qk_rope_head_dim = 4;
  config.num_nextn_predict_layers = 1;
  config.initializer_range = 0.1;
  return config;
}

void sample(uint64_t n, std::span<int32_t> tokens, std::span<int32_t> starts) {
  Random random(11, n);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random.below(kVocabulary));
  std::fill(starts.begin(), starts.end(), 0);
}

struct Training {
  Allocator allocator;
  ThreadPool pool{2};
  Exec exec{Device::cpu, &pool, &allocator, DType::f32};
  std::unique_ptr<Trainer> trainer;

  Training() {
    register_backends();
    TrainConfig config;
    config.sequence_length = kLength;
    config.tokens = 1 << 20;
    config.batch_size = Schedule(2);
    trainer = std::make_unique<Trainer>(exec, ragged_model(), config);
  }
  std::vector<float> weights() {
    std::vector<float> all;
    for (const deepseek::NamedWeight& weight : deepseek::named_weights(trainer->model()))
      for (float value : weight.tensor.span<float>()) all.push_back(value);
    return all;
  }
};

// |x − code·scale| is at most half the distance of two codes there, by the definition of E4M3.
bool is_nearest(float x, e4m3 code, float scale) {
  const float value = std::abs(to_float(code));
  const float step = std::exp2(std::floor(std::log2(std::max(value, 0x1p-6f))) - 3);
  return std::abs(x - to_float(code) * scale) <= 0.50001f * step * scale;
}

void expect_quantized(const Fp8Weight& stored, const Tensor& weight, ScaleFormat format) {
  ASSERT_EQ(weight.shape(), Shape({stored.rows, stored.columns}));
  const auto at = [&](int64_t row, int64_t column) {
    return weight.data<float>()[row * stored.columns + column];
  };
  for (int64_t row = 0; row < stored.rows; row += kTile)
    for (int64_t column = 0; column < stored.columns; column += kTile) {
      float amax = 0;
      for (int64_t r = row; r < std::min(row + kTile, stored.rows); ++r)
        for (int64_t c = column; c < std::min(column + kTile, stored.columns); ++c) {
          amax = std::max(amax, std::abs(at(r, c)));
          ASSERT_TRUE(is_nearest(at(r, c), stored.codes[r * stored.columns + c], stored.scale(r, c)))
              << stored.name << " " << r << " " << c;
        }
      const float exact = amax / 448;
      ASSERT_EQ(stored.scale(row, column),
                format == ScaleFormat::fp32 ? exact : std::exp2(std::ceil(std::log2(exact))))
          << stored.name;
    }
}

class Fp8Checkpoint : public testing::TestWithParam<ScaleFormat> {};

TEST_P(Fp8Checkpoint, IsAPublishedFolderAndTrainingGoesOnFromItsMasterWeights) {
  test::ScratchFolder folder;
  Training training;
  ASSERT_FALSE(training.trainer->step(sample).skipped);
  SaveOptions options;
  options.model_dtype = DType::f8_e4m3;
  options.model_scales = GetParam();
  const Checkpoint checkpoint =
      open_checkpoint(save_checkpoint(folder.path(), 1, training_content(*training.trainer, options)));

  const fs::path model_folder = checkpoint.path() / "model";
  EXPECT_EQ(read_fp8_scheme(read_file(model_folder / "config.json"), "config.json")->scales, GetParam());
  int fp8 = 0;
  for (const deepseek::NamedWeight& weight : deepseek::named_weights(training.trainer->model())) {
    if (is_fp8_in_published_folders(weight.name)) {
      ++fp8;
      expect_quantized(fp8_weight(checkpoint.model(), weight.name), weight.tensor, GetParam());
    } else {
      EXPECT_EQ(checkpoint.model().tensor(weight.name).dtype,
                weight.kind == ParameterKind::buffer ? "F32" : "BF16")
          << weight.name;
    }
  }
  EXPECT_EQ(fp8, 3 * 4 + 3 + 2 * 3 * (1 + 4));  // attention, a dense MLP, two MoE layers

  // Read back: the model computes with code · scale.
  deepseek::Model loaded = load_model(training.exec, model_folder);
  const Tensor& o_proj = loaded.layers[0].self_attn.o_proj.weight_OI;
  const Fp8Weight stored = fp8_weight(checkpoint.model(), "model.layers.0.self_attn.o_proj.weight");
  for (int64_t i = 0; i < o_proj.elements(); ++i)
    ASSERT_EQ(o_proj.data<float>()[i],
              to_float(stored.codes[i]) * stored.scale(i / stored.columns, i % stored.columns));

  Training resumed;
  restore_training(*resumed.trainer, checkpoint);
  EXPECT_EQ(resumed.weights(), training.weights());
  EXPECT_EQ(resumed.trainer->step(sample).loss, training.trainer->step(sample).loss);
  EXPECT_EQ(resumed.weights(), training.weights());
}

INSTANTIATE_TEST_SUITE_P(Scales, Fp8Checkpoint,
                         testing::Values(ScaleFormat::fp32, ScaleFormat::power_of_two));

TEST(Fp8Checkpoints, RefuseWeightsThatAreNotFinite) {
  Training training;
  training.trainer->model().layers[0].self_attn.o_proj.weight_OI.data<float>()[3] =
      std::numeric_limits<float>::quiet_NaN();
  SaveOptions options;
  options.model_dtype = DType::f8_e4m3;
  EXPECT_EQ(error_of([&] { training_content(*training.trainer, options); }),
            "model.layers.0.self_attn.o_proj.weight: 1 NaNs and 0 infinities; not to be saved as FP8");
}

TEST(Fp8Checkpoints, StrayScalesAreNamed) {
  test::ScratchFolder folder;
  Training training;
  SaveOptions options;
  CheckpointContent content = training_content(*training.trainer, options);
  content.model.push_back(
      {"model.norm.weight_scale_inv", Tensor::zeros(training.allocator, {1}, DType::f32)});
  const fs::path saved = save_checkpoint(folder.path(), 1, content);
  EXPECT_EQ(
      error_of([&] { load_model(training.exec, saved / "model"); }),
      (saved / "model").string() +
          ": 'model.norm.weight_scale_inv' are the scales of 'model.norm.weight', which is F32, not F8_E4M3");
}

}  // namespace
}  // namespace moray
