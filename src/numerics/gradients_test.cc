// Gradients of one batch in several precisions, held against the trainer's own step.
#include "numerics/gradients.h"

#include <gtest/gtest.h>

#include <cmath>

#include "backend/register.h"
#include "base/random.h"
#include "base/test_help.h"
#include "train/train_state.h"

namespace moray::numerics {
namespace {

using test::error_of;

constexpr int64_t kVocabulary = 61, kLength = 16, kBatch = 4;

Recipe recipe_of(PrecisionKind kind) {
  Recipe recipe;
  deepseek::ModelConfig& model = recipe.model;
  model.vocab_size = kVocabulary;
  model.hidden_size = 128;
  model.num_hidden_layers = 2;
  model.first_k_dense_replace = 1;
  model.intermediate_size = 128;
  model.moe_intermediate_size = 128;
  model.n_routed_experts = 4;
  model.num_experts_per_tok = 4;  // all: no choice that rounding could turn
  model.n_shared_experts = 1;
  model.num_attention_heads = 2;
  model.kv_lora_rank = 32;
  model.qk_nope_head_dim = model.v_head_dim = 16;
  model.qk_rope_head_dim = 8;
  model.num_nextn_predict_layers = 1;
  model.initializer_range = 0.1;
  recipe.train.sequence_length = kLength;
  recipe.train.tokens = 1 << 20;
  recipe.train.batch_size = Schedule(kBatch);
  recipe.train.micro_batch = 3;
  recipe.train.precision.kind = kind;
  return recipe;
}

void sample(uint64_t n, std::span<int32_t> tokens, std::span<int32_t> starts) {
  Random random(5, n);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random.below(kVocabulary));
  std::fill(starts.begin(), starts.end(), 0);
}

class Gradients : public testing::Test {
 protected:
  Gradients() {
    register_backends();
    const Recipe recipe = recipe_of(PrecisionKind::f32);
    trainer_ = std::make_unique<Trainer>(exec_, recipe.model, recipe.train);
    trainer_->step(sample);
    SaveOptions options;
    options.model_dtype = DType::bf16;
    path_ = save_checkpoint(folder_.path(), 1, training_content(*trainer_, options));
  }
  GradientComparison compare(PrecisionKind a, PrecisionKind b) {
    return compare_gradients(exec_, open_checkpoint(path_), recipe_of(a), recipe_of(b), sample, kBatch);
  }

  test::ScratchFolder folder_;
  Allocator allocator_;
  ThreadPool pool_{2};
  Exec exec_{Device::cpu, &pool_, &allocator_, DType::f32};
  std::unique_ptr<Trainer> trainer_;
  fs::path path_;
};

TEST_F(Gradients, AreTheTrainersOwn) {
  const GradientComparison same = compare(PrecisionKind::f32, PrecisionKind::f32);
  EXPECT_EQ(same.all.runs.dot, same.all.runs.squares_a);
  EXPECT_EQ(same.all.runs.dot, same.all.runs.squares_b);
  EXPECT_NEAR(same.all.runs.cosine(), 1, 1e-12);
  EXPECT_FALSE(same.all.baseline_f32 || same.all.run_f32);
  const double norm = trainer_->step(sample).grad_norm;
  EXPECT_NEAR(std::sqrt(same.all.runs.squares_a), norm, 1e-6 * norm);
}

TEST_F(Gradients, TurnMoreInNarrowerPrecision) {
  const GradientComparison comparison = compare(PrecisionKind::bf16, PrecisionKind::fp8);
  ASSERT_TRUE(comparison.all.baseline_f32 && comparison.all.run_f32);
  const double bf16 = 1 - comparison.all.baseline_f32->cosine(), fp8 = 1 - comparison.all.run_f32->cosine();
  EXPECT_GT(bf16, 0);
  EXPECT_LT(bf16, 1e-3);
  EXPECT_GT(fp8, 5 * bf16);
  EXPECT_LT(fp8, 0.05);
  EXPECT_NEAR(1 - comparison.all.runs.cosine(), fp8, 0.3 * fp8);
  EXPECT_EQ(comparison.baseline, "bf16");
  EXPECT_EQ(comparison.run, "fp8");
  EXPECT_EQ(comparison.step, 1);
}

TEST_F(Gradients, LayersAndKindsAddUpToAll) {
  const GradientComparison comparison = compare(PrecisionKind::f32, PrecisionKind::bf16);
  std::vector<std::string> names;
  double dot = 0, kind_dot = 0;
  for (const GradientRow& row : comparison.layers) names.push_back(row.name), dot += row.runs.dot;
  for (const GradientRow& row : comparison.kinds) kind_dot += row.runs.dot;
  std::sort(names.begin(), names.end());
  EXPECT_EQ(names,
            (std::vector<std::string>{"MTP 1", "embedding", "final norm", "head", "layer 0", "layer 1"}));
  EXPECT_NEAR(dot, comparison.all.runs.dot, 1e-9 * dot);
  EXPECT_NEAR(kind_dot, comparison.all.runs.dot, 1e-9 * dot);
  EXPECT_FALSE(comparison.all.baseline_f32) << "the baseline is f32 itself";
  const std::string table = gradients_table(comparison);
  EXPECT_NE(table.find("mlp.experts.*.up_proj"), std::string::npos) << table;
  EXPECT_NE(gradients_html(comparison).find("layer 1"), std::string::npos);
}

TEST_F(Gradients, OfOtherModelsOrBatchesAreRefused) {
  const Recipe a = recipe_of(PrecisionKind::f32);
  Recipe b = a;
  const auto error = [&] {
    return error_of([&] { compare_gradients(exec_, open_checkpoint(path_), a, b, sample, kBatch); });
  };
  b.train.seed = 9;
  EXPECT_EQ(error(), "the two runs' seeds differ: 1 and 9");
  b.train.sequence_length = 8;
  EXPECT_EQ(error(), "the two runs' sequence lengths differ: 16 and 8");
  b.model.hidden_size = 64;
  EXPECT_EQ(error(), "the two runs' models differ");
}

TEST(GradientAngle, ByHand) {
  GradientAngle angle{3, 9, 4};
  EXPECT_EQ(angle.cosine(), 0.5);
  EXPECT_NEAR(angle.relative_length(), 2.0 / 3 - 1, 1e-15);
  angle.add({1, 7, 12});
  EXPECT_EQ(angle.cosine(), 0.25);
  EXPECT_EQ((GradientAngle{0, 0, 0}.cosine()), 1);
  EXPECT_EQ((GradientAngle{0, 1, 0}.cosine()), 0);
}

}  // namespace
}  // namespace moray::numerics
