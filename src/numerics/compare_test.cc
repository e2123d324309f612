#include "numerics/compare.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/test_help.h"

namespace moray::numerics {
namespace {

using test::error_of;

// Losses 4, 4, ... of steps with 100 tokens each; warm-up ends with step `peak`.
RunRecord flat_run(const std::string& name, int64_t steps, int64_t peak, double loss = 4) {
  RunRecord run;
  run.name = name;
  for (int64_t step = 1; step <= steps; ++step) {
    StepMetrics row;
    row.step = step;
    row.tokens = 100 * step;
    row.loss = loss;
    row.mtp_loss = {loss + 1};
    row.learning_rate = step <= peak ? static_cast<double>(step) : static_cast<double>(peak);
    run.metrics.push_back(row);
  }
  return run;
}

TEST(CompareRuns, ErrorsFromTheEndOfWarmUpOn) {
  const RunRecord a = flat_run("a", 20, 5);
  RunRecord b = flat_run("b", 20, 5);
  b.metrics[2].loss = 40;    // step 3, in warm-up: its trace in the average fades by 0.9 a step
  b.metrics[9].loss = 4.04;  // step 10
  const Comparison comparison = compare_runs(a, b, nullptr, {});
  EXPECT_EQ(comparison.from_step, 5);
  EXPECT_EQ(comparison.last_step, 20);
  EXPECT_FALSE(comparison.floor);
  const auto error = [](int64_t step) {  // by hand
    double sum = 36 * 0.1 * std::pow(0.9, static_cast<double>(step - 3));
    if (step >= 10) sum += 0.04 * 0.1 * std::pow(0.9, static_cast<double>(step - 10));
    return sum / 4;
  };
  ASSERT_EQ(comparison.run.steps.size(), 20u);
  double squares = 0, sum = 0;
  for (int64_t step = 5; step <= 20; ++step) {
    EXPECT_NEAR(comparison.run.steps[static_cast<size_t>(step - 1)].error(), error(step), 1e-12) << step;
    sum += error(step), squares += error(step) * error(step);
  }
  const ErrorSummary& loss = comparison.run.loss;
  EXPECT_EQ(loss.steps, 16);
  EXPECT_EQ(loss.greatest_step, 5);
  EXPECT_NEAR(loss.greatest, error(5), 1e-12);
  EXPECT_NEAR(loss.mean, sum / 16, 1e-12);
  EXPECT_NEAR(loss.rms, std::sqrt(squares / 16), 1e-12);
  EXPECT_NEAR(loss.last, error(20), 1e-12);
  EXPECT_NEAR(loss.greatest_by_third[0], error(5), 1e-12);   // steps 5 to 10
  EXPECT_NEAR(loss.greatest_by_third[1], error(11), 1e-12);  // 11 to 15
  EXPECT_NEAR(loss.greatest_by_third[2], error(16), 1e-12);
  EXPECT_EQ(loss.beyond_limit, 16);
  EXPECT_EQ(comparison.run.mtp_loss[0].greatest, 0);
  EXPECT_EQ(compare_runs(a, b, nullptr, {.ema_decay = 0, .from_step = 11}).run.loss.greatest, 0);
}

TEST(CompareRuns, RecipesThatDifferInMoreThanPrecisionAreRefused) {
  RunRecord a = flat_run("a", 10, 2), b = flat_run("b", 10, 2);
  a.recipe = "[train]\nprecision = \"bf16\"\nseed = 1\n\n[run]\nkeep_last = 2\n";
  b.recipe =
      "[train]\nprecision = \"fp8\"\nseed = 1\n\n[train.fp8]\nscales = \"fp32\"\n\n[run]\nkeep_last = 3\n";
  EXPECT_EQ(compare_runs(a, b, nullptr, {}).run.loss.steps, 9);
  b.recipe = "[train]\nprecision = \"fp8\"\nseed = 2\n";
  EXPECT_EQ(error_of([&] { compare_runs(a, b, nullptr, {}); }),
            "a and b differ in train.seed, not in precision alone");
}

TEST(CompareRuns, StepsLeftOutAreTold) {
  const RunRecord a = flat_run("a", 10, 2);
  RunRecord b = flat_run("b", 10, 2);
  b.metrics[5].loss = std::nan("");
  const Comparison comparison = compare_runs(a, b, &a, {});
  EXPECT_EQ(comparison.run.loss.not_finite, 1);
  const std::string table = comparison_table(comparison);
  EXPECT_NE(table.find("but 1 steps are left out whose loss is not finite"), std::string::npos) << table;
  EXPECT_EQ(table.find("inf"), std::string::npos) << table;
}

TEST(CompareRuns, SignsAndTheFloor) {
  const RunRecord a = flat_run("a", 10, 2), b = flat_run("b", 10, 2, 3.99), c = flat_run("c", 12, 2, 4.002);
  const Comparison comparison = compare_runs(a, b, &c, {});
  EXPECT_NEAR(comparison.run.loss.mean, -0.0025, 1e-12);
  EXPECT_NEAR(comparison.run.mtp_loss[0].last, -0.01 / 5, 1e-12);
  EXPECT_NEAR(comparison.floor->loss.greatest, 0.0005, 1e-12);
  EXPECT_EQ(comparison.floor->loss.beyond_limit, 0);
  EXPECT_FALSE(comparison.run.validation_error);
  const std::string table = comparison_table(compare_runs(a, flat_run("b", 10, 2, 4.1), &c, {}));
  EXPECT_NE(
      table.find("greatest error 2.5000% is beyond the limit of 0.2500%; the noise floor's 0.0500% is within "
                 "it; 50.00 times the floor"),
      std::string::npos)
      << table;
  const std::string html = comparison_html(comparison);
  EXPECT_EQ(html.find("src="), std::string::npos);
  EXPECT_NE(html.find("c (noise floor)"), std::string::npos);
}

TEST(CompareRuns, StepsWithoutALossAreLeftOut) {
  const RunRecord a = flat_run("a", 10, 2);
  RunRecord b = flat_run("b", 10, 2, 4.4);
  b.metrics[6].loss = std::numeric_limits<double>::quiet_NaN();
  b.metrics[9].validation_loss = 5;
  const Comparison comparison = compare_runs(a, b, nullptr, {});
  EXPECT_EQ(comparison.run.loss.steps, 8);
  EXPECT_NEAR(comparison.run.loss.greatest, 0.1, 1e-12);
  EXPECT_FALSE(comparison.run.validation_error);
}

TEST(CompareRuns, RefusesRunsOfOtherBatches) {
  const RunRecord a = flat_run("a", 10, 2);
  RunRecord b = flat_run("b", 10, 2);
  EXPECT_EQ(error_of([&] { compare_runs(a, b, nullptr, {.from_step = 11}); }),
            "a and b have no step in common from step 11 on");
  b.metrics[3].tokens = 7;
  EXPECT_EQ(error_of([&] { compare_runs(a, b, nullptr, {}); }),
            "step 4: a had seen 400 tokens, b 7: these runs did not train on the same batches");
}

TEST(CompareRuns, NamesAreText) {
  const RunRecord a = flat_run("<a>", 4, 1), b = flat_run("b & c", 4, 1);
  const std::string html = comparison_html(compare_runs(a, b, nullptr, {}));
  EXPECT_EQ(html.find("<a>"), std::string::npos);
  EXPECT_EQ(html.find("b & c"), std::string::npos);
  EXPECT_NE(html.find("&lt;a&gt;"), std::string::npos);
}

}  // namespace
}  // namespace moray::numerics
