#include "train/recipe.h"

#include <gtest/gtest.h>

#include "base/files.h"

namespace moray {
namespace {

Recipe tiny_with(const std::string& assignment) {
  Config config = Config::read(fs::path(MORAY_SOURCE_DIR) / "recipes/tiny.toml");
  config.set(assignment);
  return Recipe::from_config(config);
}

// Each would put numbers that are none into weights in a step whose loss and gradients are sound, so that no
// step is skipped before the damage.
TEST(Recipe, RefusesNumbersThatRuinWeights) {
  for (const char* assignment :
       {"train.adamw.eps=0", "train.adamw.eps=1e-60", "train.adamw.eps=nan", "train.adamw.weight_decay=inf",
        "train.adamw.clip_norm=nan", "train.adamw.beta2=1", "train.ema_decay=1", "train.learning_rate=nan",
        "train.learning_rate=inf", "train.balance_bias_update_speed=inf"})
    EXPECT_THROW(tiny_with(assignment), Error) << assignment;
  EXPECT_EQ(tiny_with("train.adamw.eps=1e-15").train.optimizer.eps, 1e-15);
  EXPECT_EQ(tiny_with("train.adamw.clip_norm=0").train.optimizer.clip_norm, 0);
}

TEST(Recipe, FormsOfTheModelInCheckpoints) {
  EXPECT_EQ(tiny_with("run.model_dtype=fp8").run.model_dtype, DType::f8_e4m3);
  EXPECT_EQ(tiny_with("run.model_dtype=fp8").run.model_scales, ScaleFormat::fp32);
  EXPECT_EQ(tiny_with("run.model_scale_fmt=ue8m0").run.model_scales, ScaleFormat::power_of_two);
  for (const char* assignment : {"run.model_dtype=fp4", "run.model_scale_fmt=bf16"})
    EXPECT_THROW(tiny_with(assignment), Error) << assignment;
}

// The choices of the report (§3.2.2, §3.3.3), by a recipe that says no more than `precision = "fp8"`.
TEST(Recipe, Fp8IsTheReportsUnlessAKeySaysOtherwise) {
  const auto fp8_with = [](std::vector<const char*> assignments) {
    Config config = Config::read(fs::path(MORAY_SOURCE_DIR) / "recipes/fp8.toml");
    for (const char* assignment : assignments) config.set(assignment);
    return Recipe::from_config(config).train;
  };
  const TrainConfig fp8 = fp8_with({});
  EXPECT_TRUE(fp8.precision.fp8());
  EXPECT_TRUE(fp8.precision.recompute_norms);
  EXPECT_TRUE(fp8.precision.recompute_mla_up);
  EXPECT_EQ(fp8.precision.scales, ScaleFormat::fp32);
  EXPECT_EQ(fp8.precision.linear_inputs, CodeFormat::f8_e4m3);
  EXPECT_EQ(fp8.precision.attention_output, CodeFormat::f12_e5m6);
  EXPECT_EQ(fp8.precision.swiglu_inputs, CodeFormat::f8_e4m3);
  EXPECT_EQ(fp8.precision.dispatch, CodeFormat::f8_e4m3);
  EXPECT_EQ(fp8.precision.dispatch_gradient, CodeFormat::f8_e4m3);
  EXPECT_EQ(fp8.optimizer.moment_dtype, DType::bf16);
  for (size_t part = 0; part < kPartNames.size(); ++part)
    EXPECT_EQ(fp8.precision.is_high(static_cast<Part>(part)),
              std::string_view(kPartNames[part]) == "eh_proj");
  EXPECT_TRUE(
      fp8_with({"train.fp8.high_precision=['self_attn', 'experts']"}).precision.is_high(Part::experts));
  EXPECT_THROW(fp8_with({"train.fp8.high_precision=['lm_head']"}), Error);
  EXPECT_EQ(fp8_with({"train.fp8.dispatch=bf16"}).precision.dispatch, std::nullopt);
  EXPECT_EQ(fp8_with({"train.precision=bf16"}).optimizer.moment_dtype, DType::f32);
  // Operands of products are E4M3; BF16 moments cannot follow a slow average.
  for (const char* key : {"linear_inputs", "dispatch", "dispatch_gradient"})
    EXPECT_THROW(fp8_with({fmt::format("train.fp8.{}=e5m6", key).c_str()}), Error) << key;
  EXPECT_THROW(fp8_with({"train.adamw.beta2=0.999"}), Error);
  EXPECT_NO_THROW(fp8_with({"train.adamw.beta2=0.999", "train.adamw.moments=f32"}));
}

}  // namespace
}  // namespace moray
