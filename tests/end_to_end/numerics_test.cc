// The laboratory on runs that the command itself trained.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "report/metrics.h"
#include "workshop.h"

namespace moray::test {
namespace {

using Json = nlohmann::json;

// max |EMA(run) / EMA(baseline) − 1| from step `from` on.
double greatest_error(const fs::path& baseline, const fs::path& run, int64_t from) {
  const std::vector<StepMetrics> a = read_metrics(baseline / "metrics.jsonl"),
                                 b = read_metrics(run / "metrics.jsonl");
  double greatest = 0, smoothed_a = a.at(0).loss, smoothed_b = b.at(0).loss;
  for (size_t i = 0; i < a.size(); ++i) {
    smoothed_a = 0.9 * smoothed_a + 0.1 * a[i].loss;
    smoothed_b = 0.9 * smoothed_b + 0.1 * b.at(i).loss;
    if (a[i].step >= from) greatest = std::max(greatest, std::abs(smoothed_b / smoothed_a - 1));
  }
  return greatest;
}

TEST(NumericsCommand, ComparesRunsInTwoPrecisionsBesideTheirFloor) {
  const Workshop& workshop = Workshop::get();
  const ScratchFolder scratch;
  const fs::path bf16 = scratch / "bf16", fp8 = scratch / "fp8", floor = scratch / "floor",
                 html = scratch / "compare.html";
  ASSERT_EQ(moray(workshop.train(bf16, {"train.precision=bf16"})).status, 0);
  ASSERT_EQ(moray(workshop.train(fp8, {"train.precision=fp8"})).status, 0);
  ASSERT_EQ(
      moray(workshop.train(floor, {"train.precision=bf16", "train.perturb_initial_weights=true"})).status, 0);
  const Outcome outcome =
      moray({"numerics", "compare", bf16, fp8, floor, "--html", html, "--json", "--gradients"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const Json json = Json::parse(outcome.out);
  const int64_t from = json["from_step"];
  EXPECT_EQ(from, 4) << "1024 tokens of warm-up";
  for (const auto& [key, run] : {std::pair("run", fp8), std::pair("floor", floor)}) {
    const double greatest = json[key]["loss"]["greatest"];
    EXPECT_NEAR(greatest, greatest_error(bf16, run, from), 1e-12) << key;
    EXPECT_GT(greatest, 0) << key;
    EXPECT_LT(greatest, 0.01) << key;
  }
  EXPECT_GT(json["gradients"]["all"]["f32_and_run"]["cosine"], 0.9);
  EXPECT_NE(read_file(html).find("floor (noise floor)"), std::string::npos);
  const Outcome table = moray({"numerics", "compare", bf16, fp8, floor});
  EXPECT_NE(table.out.find("the limit of 0.2500%"), std::string::npos) << table.out;
  expect_refusal(moray({"numerics", "compare", bf16, workshop.trained() / "none"}), {"none"});
}

TEST(NumericsCommand, TellsWhatQuantizationLoses) {
  const Workshop& workshop = Workshop::get();
  const ScratchFolder scratch;
  const fs::path run = scratch / "fp8";
  ASSERT_EQ(moray(workshop.train(run, {"train.precision=fp8", "run.quantization_interval_steps=6"})).status,
            0);
  const Outcome outcome = moray({"numerics", "quantization", run, "--json"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const Json json = Json::parse(outcome.out);
  ASSERT_GE(json["classes"].size(), 4u) << outcome.out;
  for (const Json& of : json["classes"]) {
    EXPECT_EQ(of["steps"], kSteps / 6) << of;
    EXPECT_EQ(of["saturated"], 0) << of;
  }
  expect_refusal(moray({"numerics", "quantization", workshop.trained()}), {"quantization_interval_steps"});
  const Outcome tensors = moray({"numerics", "tensors", run, "--json"});
  ASSERT_EQ(tensors.status, 0) << tensors.err;
  EXPECT_GT(Json::parse(tensors.out)["tensors"].size(), 20u);
}

}  // namespace
}  // namespace moray::test
