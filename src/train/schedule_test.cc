#include "train/schedule.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace moray {
namespace {

// Facts §2: linear to 2.2e-4, constant to 10T, cosine to 2.2e-5 over 4.3T, constant 2.2e-5, constant 7.3e-6.
TEST(Schedule, FollowsThePublishedLearningRate) {
  Config recipe = Config::parse(R"([train]
learning_rate = [
  {until_tokens = 27e9, shape = "linear", to = 2.2e-4},
  {until_tokens = 10e12, shape = "constant", to = 2.2e-4},
  {until_tokens = 14.3e12, shape = "cosine", to = 2.2e-5},
  {until_tokens = 14.633e12, to = 2.2e-5},
  {to = 7.3e-6},
])",
                                "recipe.toml");
  const Schedule schedule = Schedule::from_recipe(recipe, "train.learning_rate", 0, 0);
  recipe.reject_unknown_keys();
  EXPECT_EQ(schedule.at(0), 0);
  EXPECT_DOUBLE_EQ(schedule.at(13'500'000'000), 1.1e-4);
  EXPECT_DOUBLE_EQ(schedule.at(27'000'000'000), 2.2e-4);
  EXPECT_DOUBLE_EQ(schedule.at(5'000'000'000'000), 2.2e-4);
  EXPECT_NEAR(schedule.at(12'150'000'000'000), (2.2e-4 + 2.2e-5) / 2, 1e-12);
  EXPECT_NEAR(schedule.at(14'300'000'000'000), 2.2e-5, 1e-15);
  EXPECT_DOUBLE_EQ(schedule.at(14'500'000'000'000), 2.2e-5);
  EXPECT_DOUBLE_EQ(schedule.at(14'700'000'000'000), 7.3e-6);
  EXPECT_DOUBLE_EQ(schedule.greatest(), 2.2e-4);
}

TEST(Schedule, TakesAPlainNumber) {
  Config recipe = Config::parse("[train]\nbatch_size = 12", "recipe.toml");
  EXPECT_EQ(Schedule::from_recipe(recipe, "train.batch_size", 0, 0).at(1'000'000), 12);
  EXPECT_EQ(Schedule::from_recipe(recipe, "train.other", 7, 0).at(0), 7);
}

TEST(Schedule, FractionsStretchWithTheBudget) {
  Config recipe =
      Config::parse("x = [{until_fraction = 0.25, shape = 'linear', to = 8}, {to = 2}]", "recipe.toml");
  const Schedule schedule = Schedule::from_recipe(recipe, "x", 0, 400);
  recipe.reject_unknown_keys();
  EXPECT_EQ(schedule.at(50), 4);
  EXPECT_EQ(schedule.at(100), 8);
  EXPECT_EQ(schedule.at(101), 2);
}

TEST(Schedule, RefusesNonsense) {
  for (const char* phases :
       {"[]", "[{until_tokens = 5, shape = 'bent', to = 1}]", "[{shape = 'linear', to = 1}]",
        "[{until_tokens = 5, to = 1}, {until_tokens = 5, to = 2}]", "[{until_fraction = 1.5, to = 1}]",
        "[{until_fraction = 0.5, until_tokens = 5, to = 1}]"}) {
    Config recipe = Config::parse(std::string("x = ") + phases, "recipe.toml");
    EXPECT_THROW(Schedule::from_recipe(recipe, "x", 0, 100), Error) << phases;
  }
}

}  // namespace
}  // namespace moray
