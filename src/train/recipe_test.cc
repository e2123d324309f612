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

}  // namespace
}  // namespace moray
