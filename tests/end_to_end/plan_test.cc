// `moray plan` and its subcommands on the shipped recipes and clusters: what they print, what they write, and
// how they refuse.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/json.h"
#include "workshop.h"

namespace moray::test {
namespace {

using Arguments = std::vector<std::string>;
using Json = nlohmann::json;

std::string in_source(const std::string& path) {
  return std::string(MORAY_SOURCE_DIR) + "/" + path;
}

const std::string kTraining = in_source("recipes/plan-v3-2048-h800.toml");
const std::string kServing = in_source("recipes/plan-v3-serving.toml");
const std::string kH800 = in_source("clusters/h800.toml"), kA100 = in_source("clusters/a100.toml");
const std::string kRates = in_source("clusters/rates-h800.toml");
const std::string kTrace = in_source("tests/golden/plan/deepseek_v3_train_fb_pair.json.xz");

Arguments operator+(Arguments left, const Arguments& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

const Arguments kPlan = {"plan", kTraining, "--cluster", kH800};
const Arguments kSearch = {"plan", "search", kTraining, "--cluster", kH800};
const Arguments kShapes = {"plan", "shapes", kTraining, "--cluster", kH800};
const Arguments kServe = {"plan", "serve", kServing, "--cluster", kH800, "--rates", kRates};
const Arguments kCalibrate = {"plan", "calibrate", "--cluster",
                              kH800,  "--model",   in_source("recipes/v3.toml")};

std::string output_of(const Arguments& arguments) {
  const Outcome outcome = moray(arguments);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  return outcome.out;
}

Json json_of(Arguments arguments) {
  arguments.push_back("--json");
  return parse_json(output_of(arguments), "stdout");
}

void expect_says(const std::string& text, const std::vector<std::string>& fragments) {
  for (const std::string& fragment : fragments)
    EXPECT_NE(text.find(fragment), std::string::npos) << fragment << "\n" << text;
}

TEST(PlanCommand, PricesARunAndWritesItsPictures) {
  const ScratchFolder scratch;
  const std::string html = scratch / "plan.html", trace = scratch / "step.json";
  const std::string text = output_of(kPlan + Arguments{"--html", html, "--trace", trace});
  expect_says(text,
              {"on 2048 H800", "memory of rank", "tokens/s a GPU", "GPU-hours", "(judgment)", "what if"});
  EXPECT_TRUE(read_file(html).starts_with("<!doctype html>"));
  EXPECT_GT(parse_json(read_file(trace), trace).at("traceEvents").size(), 16u * 120);
  const Json plan = json_of(kPlan);
  EXPECT_EQ(plan.at("gpus"), 2048);
  EXPECT_TRUE(plan.at("fits"));
  EXPECT_EQ(plan.at("what_if").size(), 7u);
}

TEST(PlanCommand, TakesAHuggingFaceConfig) {
  const Arguments command = {"plan",      in_source("tests/golden/train/v3/config.json"),
                             "--cluster", kH800,
                             "--set",     "layout.sequence_length=64"};
  EXPECT_EQ(json_of(command).at("gpus"), 1);
  expect_refusal(moray(command + Arguments{"--set", "model.hidden_size=64"}),
                 {"model.hidden_size=64", "config.json"});
}

TEST(PlanCommand, ModelKeysReachTheModelBesideThePlan) {
  const double wide = json_of(kPlan).at("tokens_a_second_a_gpu");
  const Json narrow = json_of(kPlan + Arguments{"--set", "model.moe_intermediate_size=1024"});
  EXPECT_GT(narrow.at("tokens_a_second_a_gpu").get<double>(), wide);
}

TEST(PlanCommand, RefusesInOneLine) {
  const ScratchFolder scratch;
  const std::pair<Arguments, std::vector<std::string>> cases[] = {
      {{"plan"}, {"recipe"}},
      {{"plan", kTraining}, {"--cluster"}},
      {{"plan", kTraining, "--cluster", "none.toml"}, {"none.toml"}},
      {{"plan", kTraining, "--cluster", kTraining}, {"'name'"}},
      {{"plan", kTraining, "--cluster", kA100}, {"A100 has no FP8"}},
      {kPlan + Arguments{"--set", "layout.pipeline=15"}, {"even number of ranks"}},
      {kPlan + Arguments{"--set", "layout.expert=3"}, {"expert = 3"}},
      {kPlan + Arguments{"--set", "layout.data=-1"}, {"layout.data", "-1"}},
      {kPlan + Arguments{"--set", "plan.tokens=nan"}, {"plan.tokens", "nan"}},
      {kPlan + Arguments{"--set", "plan.what_if=[\"magic\"]"}, {"magic", "fused_cast"}},
      {kPlan + Arguments{"--set", "layout.pipe=1"}, {"unknown key", "layout.pipe"}},
      {kPlan + Arguments{"--html", scratch / "none" / "plan.html"}, {"none/plan.html"}},
      {kPlan + Arguments{"--trace", scratch.path()}, {"not a regular file"}},
      {kSearch + Arguments{"--gpus", "0"}, {"--gpus", "0 is less than 1"}},
      {kSearch + Arguments{"--gpus", "-8"}, {"--gpus", "-8"}},
      {kSearch + Arguments{"--gpus", "many"}, {"--gpus", "many"}},
      {kSearch + Arguments{"--gpus", "2000000"}, {"2000000 GPUs"}},
      {kSearch + Arguments{"--rank-by", "speed"}, {"speed", "cost or time"}},
      {kShapes + Arguments{"--set", "layout.expert=3"}, {"expert = 3"}},
      {kShapes + Arguments{"--set", "model.n_routed_experts=0"}, {"n_routed_experts"}},
  };
  for (const auto& [arguments, fragments] : cases) {
    SCOPED_TRACE(arguments.back());
    const Outcome outcome = moray(arguments);
    expect_refusal(outcome, fragments);
    EXPECT_EQ(outcome.out, "");
    EXPECT_LT(outcome.err.size(), 300u);
  }
}

TEST(PlanSearch, RanksWhatFitsAndCountsWhatDoesNot) {
  const Json found = json_of(kSearch + Arguments{"--gpus", "256", "--sequences", "1024"});
  ASSERT_FALSE(found.at("layouts").empty());
  size_t excluded = 0;
  for (const auto& [reason, count] : found.at("excluded").items()) excluded += count.get<size_t>();
  EXPECT_EQ(excluded + found["layouts"].size(), found.at("tried"));
  double cheapest = 0;
  for (const Json& layout : found["layouts"]) {
    EXPECT_GE(layout.at("dollars").get<double>(), cheapest);
    EXPECT_LE(layout.at("memory_bytes").get<double>(), 80e9);
    cheapest = layout["dollars"];
  }
  expect_says(output_of(kSearch + Arguments{"--gpus", "16", "--sequences", "64", "--top", "3"}),
              {"0 fit H800", "excluded", "memory"});
}

TEST(PlanSearch, SaysWhenTheBatchIsTooSmallForTheGpus) {
  const std::string none = output_of(kSearch + Arguments{"--gpus", "64", "--sequences", "1"});
  expect_says(none, {"0 fit H800", "most cannot spread a step of 1 sequence", "--sequences", "multiple of 64",
                     "excluded"});
  EXPECT_EQ(none.find("tokens/s"), std::string::npos) << "a table without rows\n" << none;
  const std::string full = output_of(kSearch + Arguments{"--gpus", "16", "--sequences", "64"});
  EXPECT_EQ(full.find("--sequences"), std::string::npos) << "memory is what lacks\n" << full;
}

TEST(PlanShapes, SaysWhichShapesFit) {
  const Json shapes = json_of(kShapes);
  ASSERT_GT(shapes.size(), 5u);
  EXPECT_EQ(shapes[0].at("shape"), "as it is");
  EXPECT_TRUE(shapes[0].at("fits"));
  expect_says(output_of(kShapes), {"num_experts_per_tok = 13", "does not fit"});
}

TEST(PlanServe, PricesUnitsAndWhatOtherHardwareWouldGive) {
  const Json units = json_of(kServe);
  EXPECT_NEAR(units.at("prefill").at("tokens_a_second_a_node").get<double>(), 78.5e3, 100);
  EXPECT_NEAR(units.at("decode").at("tokens_a_second_a_node").get<double>(), 16.4e3, 100);
  EXPECT_FALSE(units["prefill"].at("within_limit"));
  EXPECT_TRUE(units["decode"].at("within_limit"));
  for (const char* unit : {"prefill", "decode"}) {
    EXPECT_EQ(units[unit].at("what_if").size(), 7u);
    EXPECT_NE(units[unit]["what_if"].at("transposed_read").at("nothing"), "");
  }
  EXPECT_GT(units["decode"]["what_if"].at("unified_network").at("tokens_a_second_a_node").get<double>(),
            1.05 * units["decode"]["tokens_a_second_a_node"].get<double>());
  const Json with = json_of(kServe + Arguments{"--what-if", "unified_network"});
  EXPECT_EQ(with.at("decode").at("tokens_a_second_a_node"),
            units["decode"]["what_if"]["unified_network"]["tokens_a_second_a_node"]);
  expect_says(output_of(kServe),
              {"H800, kernel rates: DeepSeek's", "OVER THE LIMIT of 5000 ms", "nothing: "});
}

TEST(PlanServe, SearchHoldsTheLimits) {
  const Json choices = json_of(kServe + Arguments{"--search"});
  for (const auto& [unit, latency, limit] :
       {std::tuple{"prefill", "first_token_seconds", 5.0}, {"decode", "token_seconds", 0.0476}}) {
    ASSERT_FALSE(choices.at(unit).empty());
    EXPECT_FALSE(choices[unit][0].contains("excluded"));
    for (const Json& choice : choices[unit])
      if (!choice.contains("excluded")) {
        EXPECT_LE(choice.at(latency).get<double>(), limit);
      }
  }
}

TEST(PlanServe, RefusesInOneLine) {
  const std::pair<Arguments, std::vector<std::string>> cases[] = {
      {{"plan", "serve", "none.toml"}, {"none.toml"}},
      {{"plan", "serve", kTraining, "--cluster", kH800}, {"'model'"}},
      {{"plan", "serve", kServing, "--cluster", kA100}, {"[prefill]", "no FP8"}},
      {kServe + Arguments{"--what-if", "magic"}, {"magic"}},
      {kServe + Arguments{"--set", "prefill.gpus=0"}, {"prefill.gpus", "0"}},
      {kServe + Arguments{"--set", "prefill.gpus=12"}, {"[prefill]", "12 GPUs"}},
      {kServe + Arguments{"--set", "prefill.redundant_experts=31"}, {"31 redundant"}},
      {kServe + Arguments{"--set", "prefill.tokens_a_gpu=1"}, {"tokens_a_gpu", "1"}},
      {kServe + Arguments{"--set", "prefill.load=nan"}, {"prefill.load", "nan"}},
      {kServe + Arguments{"--set", "decode.acceptance=2"}, {"acceptance", "2"}},
      {kServe + Arguments{"--set", "decode.cache_bytes=3"}, {"cache_bytes", "3"}},
      {kServe + Arguments{"--set", "limits.token_seconds=0.001"},
       {"the smallest batch takes", "the limit is 1"}},
  };
  for (const auto& [arguments, fragments] : cases) {
    SCOPED_TRACE(arguments.back());
    const Outcome outcome = moray(arguments);
    expect_refusal(outcome, fragments);
    EXPECT_EQ(outcome.out, "");
  }
}

TEST(PlanSchedule, PrintsDrawsAndListsASchedule) {
  const ScratchFolder scratch;
  const std::string svg = scratch / "s.svg";
  for (const char* kind : {"1f1b", "zb1p", "dualpipe", "dualpipev"}) {
    SCOPED_TRACE(kind);
    const Arguments command = {"plan", "schedule", kind, "--ranks", "4", "--micro-batches", "10"};
    const std::string text = output_of(command + Arguments{"--svg", svg});
    expect_says(text,
                {"bubble of the worst rank", "difference 0", "activations held at most", "rank     busy"});
    EXPECT_TRUE(read_file(svg).starts_with("<svg"));
    const Json json = json_of(command + Arguments{"--steps"});
    EXPECT_EQ(json.at("bubble"), json.at("bubble_formula"));
    EXPECT_EQ(json.at("peak_activations"), json.at("peak_activations_table"));
    EXPECT_EQ(json.at("by_rank").size(), 4u);
    EXPECT_FALSE(json["by_rank"][3].at("steps").empty());
    expect_says(output_of(command + Arguments{"--steps"}), {"rank 3: "});
  }
}

TEST(PlanSchedule, RefusesInOneLine) {
  const auto schedule = [](Arguments rest) { return moray(Arguments{"plan", "schedule"} + rest); };
  expect_refusal(schedule({"gpipe"}), {"gpipe", "dualpipe"});
  expect_refusal(schedule({"dualpipe", "--ranks", "7"}), {"even number of ranks", "7"});
  expect_refusal(schedule({"dualpipe", "--ranks", "-2"}), {"-2"});
  expect_refusal(schedule({"dualpipe", "--micro-batches", "10"}), {"at least 16 micro-batches"});
  expect_refusal(schedule({"1f1b", "--ranks", "4096", "--micro-batches", "100000"}), {"more than"});
  expect_refusal(schedule({"1f1b", "--costs", "1,2"}), {"--costs", "four numbers"});
  expect_refusal(schedule({"1f1b", "--costs", "nan,2,1,3"}), {"--costs", "nan"});
  expect_refusal(schedule({"1f1b", "--hop", "-1"}), {"--hop", "-1"});
  expect_refusal(schedule({"1f1b", "--svg", "/none/s.svg"}), {"/none/s.svg"});
}

TEST(PlanCalibrate, RatesOfATraceFeedAPlan) {
  const ScratchFolder scratch;
  const std::string rates = scratch / "rates.toml";
  const std::string text = output_of(kCalibrate + Arguments{kTrace, "--output", rates});
  expect_says(text, {"NVIDIA H800: 129.0 ms", "exposed", "gemm_wgrad_fp8"});
  EXPECT_EQ(json_of(kPlan + Arguments{"--set", "plan.rates=\"" + rates + "\""}).at("rates"),
            "deepseek_v3_train_fb_pair.json.xz");
}

TEST(PlanCalibrate, RefusesInOneLine) {
  const ScratchFolder scratch;
  const auto refused = [&](const std::string& content, const std::vector<std::string>& fragments) {
    write_file_atomically(scratch / "trace.json", content);
    expect_refusal(moray(kCalibrate + Arguments{scratch / "trace.json"}), fragments);
  };
  const std::string kernel = R"({"cat":"kernel","ph":"X","ts":1,"dur":3,"pid":0,"tid":7,"name":"gemm"})";
  refused("", {"trace.json"});
  refused("[1, 2", {"trace.json", "not a JSON trace"});
  refused("{\"traceEvents\":[]}", {"no GPU kernels"});
  refused("{\"traceEvents\":[7]}", {"event 0"});
  refused("{\"traceEvents\":[" + kernel + "]}", {"trace.json", "no kernel of class"});
  write_file_atomically(scratch / "cut.json.xz", read_file(kTrace).substr(0, 10'000));
  expect_refusal(moray(kCalibrate + Arguments{scratch / "cut.json.xz"}), {"cut short"});
  expect_refusal(moray(kCalibrate + Arguments{kTrace, "--layers", "0"}), {"--layers", "0"});
  expect_refusal(moray(kCalibrate + Arguments{kTrace, "--expert-parallel", "3"}), {"expert = 3"});
  expect_refusal(moray(kCalibrate + Arguments{kTrace, "--tokens", "100000"}), {"times the peak", "tokens"});
}

}  // namespace
}  // namespace moray::test
