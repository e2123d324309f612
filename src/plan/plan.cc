#include "plan/plan.h"

#include "base/error.h"
#include "report/metrics.h"

namespace moray::plan {

namespace {

deepseek::ModelConfig model_from_file(const fs::path& file) {
  if (file.extension() == ".json") return deepseek::ModelConfig::from_json(read_file(file), file.string());
  Config recipe = Config::read(file);
  return deepseek::ModelConfig::from_recipe(recipe);
}

// A path in a recipe is meant from the recipe's folder.
fs::path beside(const fs::path& recipe, const std::string& path) {
  return fs::path(path).is_absolute() ? fs::path(path) : recipe.parent_path() / path;
}

double positive(Config& config, const std::string& key, double fallback, bool may_be_zero) {
  const double value = config.number(key, fallback);
  constexpr double kMost = 1e18;
  if (!(value >= 0 && value <= kMost) || (value == 0 && !may_be_zero))
    fail("{} is {}, expected a {} number", config.where(key), value,
         may_be_zero ? "non-negative" : "positive");
  return value;
}

void read_settings(Config& config, const fs::path& recipe, PlanInput& input) {
  input.tokens = positive(config, "plan.tokens", input.tokens, false);
  constexpr double kSecondsAMinute = 60;
  input.checkpoint_interval_seconds = kSecondsAMinute * positive(config, "plan.checkpoint_minutes", 0, true);
  input.sequence_load_deviation =
      positive(config, "plan.sequence_load_deviation", input.sequence_load_deviation, true);
  input.straggler_loss = positive(config, "plan.straggler_loss", input.straggler_loss, true);
  if (input.straggler_loss >= 1)
    fail("{} is {}, expected less than 1", config.where("plan.straggler_loss"), input.straggler_loss);
  if (const std::string loads = config.string("plan.expert_load", ""); !loads.empty())
    input.expert_load = beside(recipe, loads).string();
  if (const std::string rates = config.string("plan.rates", ""); !rates.empty())
    input.rates = read_rates(beside(recipe, rates));
  for (const std::string& name : config.strings("plan.what_if", {}))
    input.what_ifs.push_back(what_if_of(name));
  input.layout = Layout::from_config(config);
  config.reject_unknown_keys();
}

// Assignments of the model's keys go to the file that holds the model.
deepseek::ModelConfig model_of_training_recipe(Config& recipe, std::vector<std::string>& assignments) {
  for (const std::string& assignment : assignments)
    if (assignment.rfind("model.", 0) == 0) recipe.set(assignment);
  std::erase_if(assignments,
                [](const std::string& assignment) { return assignment.rfind("model.", 0) == 0; });
  return deepseek::ModelConfig::from_recipe(recipe);
}

}  // namespace

Imbalance imbalance_of(const PlanInput& input) {
  if (input.model.n_routed_experts == 0) return {};
  if (input.expert_load.empty())
    return imbalance_from_distribution(input.model, input.layout, input.cluster,
                                       input.sequence_load_deviation);
  std::vector<std::vector<std::vector<double>>> loads;
  for (ExpertLoadRow& row : read_expert_load(input.expert_load)) loads.push_back(std::move(row.load));
  return imbalance_from_loads(loads, input.layout, input.cluster, input.expert_load);
}

namespace {

// What a rank writes: its shard of master weights and moments, and of the BF16 weights.
double checkpoint_bytes(const Layout& layout, const RankMemory& memory) {
  const double sharded_from = layout.zero_stage >= 1 ? 1 : 1 / zero_shards(layout, false);
  const double bytes_a_parameter = 4 + 2 * (layout.moments_bf16 ? 2 : 4);
  return memory.optimizer * sharded_from * (1 + 2 / bytes_a_parameter);
}

}  // namespace

PlanInput read_plan(const fs::path& recipe, const fs::path& cluster,
                    const std::vector<std::string>& assignments) {
  PlanInput input;
  input.cluster = read_cluster(cluster);
  input.model_name = recipe.stem().string();
  std::vector<std::string> settings = assignments;
  Config config = Config::parse("", "--set");
  if (recipe.extension() == ".json") {
    input.model = model_from_file(recipe);
  } else {
    Config file = Config::read(recipe);
    if (file.has("plan.model") || file.has("layout.pipeline")) {
      for (const std::string& assignment : settings) file.set(assignment);
      settings.clear();
      config = file;
      const std::string model = config.string("plan.model", "");
      input.model =
          model.empty() ? deepseek::ModelConfig::from_recipe(config) : model_from_file(beside(recipe, model));
    } else {
      input.model = model_of_training_recipe(file, settings);
    }
  }
  for (const std::string& assignment : settings) config.set(assignment);
  read_settings(config, recipe, input);
  return input;
}

Plan make_plan(PlanInput input) {
  for (WhatIf what_if : input.what_ifs) apply(what_if, input.layout, input.cluster, input.rates);
  if (const std::string why = input.layout.objection(input.model, input.cluster); !why.empty())
    fail("impossible layout: {}", why);
  Plan plan;
  plan.imbalance = imbalance_of(input);
  plan.step = simulate_step(input.model, input.layout, input.cluster, input.rates, plan.imbalance);
  plan.memory = plan_memory(input.model, input.layout, plan.imbalance, plan.step.stages);
  plan.savings = memory_savings(input.model, input.layout, plan.imbalance, plan.step.stages);
  const double gpus = static_cast<double>(input.layout.gpus());
  plan.goodput = plan_goodput(input.cluster, gpus, checkpoint_bytes(input.layout, plan.worst_memory()),
                              input.checkpoint_interval_seconds);
  constexpr double kSecondsAnHour = 3600, kHoursADay = 24;
  plan.sustained = plan.step.tokens_a_second_a_gpu * plan.goodput.share * (1 - input.straggler_loss);
  plan.gpu_hours = input.tokens / plan.sustained / kSecondsAnHour;
  plan.days = plan.gpu_hours / gpus / kHoursADay;
  plan.dollars = plan.gpu_hours * input.cluster.price_per_gpu_hour.value;
  plan.input = std::move(input);
  return plan;
}

std::vector<WhatIfResult> price_what_ifs(const PlanInput& input) {
  std::vector<WhatIfResult> results;
  for (WhatIf what_if : all_what_ifs()) {
    PlanInput other = input;
    for (WhatIf given : input.what_ifs) apply(given, other.layout, other.cluster, other.rates);
    apply(what_if, other.layout, other.cluster, other.rates);
    if (const std::string why = other.layout.objection(other.model, other.cluster); !why.empty())
      fail("impossible layout: {}", why);
    results.push_back(
        {what_if, simulate_step(other.model, other.layout, other.cluster, other.rates, imbalance_of(other))
                      .tokens_a_second_a_gpu});
  }
  return results;
}

}  // namespace moray::plan
