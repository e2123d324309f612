#include "apps/plan_serve_command.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "apps/plan_model.h"
#include "base/config.h"
#include "base/error.h"
#include "plan/inference_search.h"
#include "plan/what_if.h"

namespace moray {

namespace {
using namespace plan;
using nlohmann::ordered_json;

constexpr double kMs = 1e3, kGb = 1e9;
constexpr const char* kPhaseNames[kBlockPhases] = {"attention", "dispatch", "experts", "combine"};

struct Inputs {
  deepseek::ModelConfig model;
  Cluster cluster;
  KernelRates rates;
  ServingLimits limits;
  std::optional<Deployment> prefill, decode;
  bool batch_given = false;  // else the largest that the limit of a token allows
};

// What-ifs change a layout, a cluster and rates; of the layout serving knows the SMs of communication.
void apply_what_ifs(const std::vector<std::string>& names, Inputs& inputs) {
  for (const std::string& what_if : names) {
    Layout layout;
    if (inputs.prefill) layout.communication_sms = inputs.prefill->communication_sms;
    apply(what_if_of(what_if), layout, inputs.cluster, inputs.rates);
    if (inputs.prefill) inputs.prefill->communication_sms = layout.communication_sms;
  }
}

Inputs read_inputs(const PlanServeOptions& options) {
  Config recipe = Config::read(options.recipe);
  for (const std::string& assignment : options.assignments) recipe.set(assignment);
  Inputs inputs;
  const std::string model = recipe.string("model");
  inputs.model = read_plan_model((fs::path(options.recipe).parent_path() / model).string());
  if (recipe.has("prefill")) inputs.prefill = Deployment::from_config(recipe, "prefill");
  if (recipe.has("decode")) {
    inputs.batch_given = recipe.has("decode.batch_a_gpu");
    inputs.decode = Deployment::from_config(recipe, "decode");
  }
  if (!inputs.prefill && !inputs.decode) fail("{}: neither [prefill] nor [decode]", options.recipe);
  inputs.limits = ServingLimits::from_config(recipe);
  recipe.reject_unknown_keys();
  inputs.cluster = read_cluster(options.cluster);
  inputs.rates = options.rates.empty() ? KernelRates::assumed() : read_rates(options.rates);
  apply_what_ifs(options.what_ifs, inputs);
  if (!options.search)  // a search says of each unit why it cannot be
    for (const auto& [section, unit] : {std::pair{"prefill", &inputs.prefill}, {"decode", &inputs.decode}})
      if (unit->has_value())
        if (const std::string why = (*unit)->objection(inputs.model, inputs.cluster); !why.empty())
          fail("{}: [{}]: {}", options.recipe, section, why);
  return inputs;
}

ordered_json estimate_json(const Deployment& d, const ServingEstimate& e, bool prefill) {
  ordered_json json = {{"unit", deployment_name(d)},
                       {"gpus", d.gpus},
                       {"tensor", d.tensor},
                       {prefill ? "tokens_a_gpu" : "batch_a_gpu", prefill ? d.tokens_a_gpu : d.batch_a_gpu},
                       {"tokens_a_second_a_node", e.tokens_a_second_a_node},
                       {prefill ? "first_token_seconds" : "token_seconds", e.latency_seconds},
                       {"pass_seconds", e.pass_seconds},
                       {"memory_bytes", e.memory.total()},
                       {"fits", e.fits}};
  for (int phase = 0; phase < kBlockPhases; ++phase)
    json["layer_seconds"][kPhaseNames[phase]] = e.phase_seconds[static_cast<size_t>(phase)];
  return json;
}

void print_estimate(const char* unit, const Deployment& d, const ServingEstimate& e, bool prefill) {
  fmt::print("{}: {}\n", unit, deployment_name(d));
  if (prefill)
    fmt::print("  {} tokens a GPU and pass, {:.1f}% of the input cached, {:.0f}% of the time at work\n",
               d.tokens_a_gpu, 100 * d.cache_hits, 100 * d.load);
  else
    fmt::print("  {} requests a GPU, {} tokens of context, {:.2f} tokens a step\n", d.batch_a_gpu, d.context,
               tokens_a_step(d));
  for (int phase = 0; phase < kBlockPhases; ++phase)
    fmt::print("  {:<10} {:>9.3f} ms a layer and micro-batch\n", kPhaseNames[phase],
               kMs * e.phase_seconds[static_cast<size_t>(phase)]);
  fmt::print("  pass {:.1f} ms; {} {:.1f} ms\n", kMs * e.pass_seconds, prefill ? "first token" : "a token",
             kMs * e.latency_seconds);
  fmt::print("  memory a GPU: weights {:.1f} GB, latent cache {:.1f}, buffers {:.1f}: {:.1f}{}\n",
             e.memory.weights / kGb, e.memory.cache / kGb, e.memory.buffers / kGb, e.memory.total() / kGb,
             e.fits ? "" : ": does not fit");
  fmt::print("  {:.1f}k tokens/s {} a node\n", e.tokens_a_second_a_node / 1e3, prefill ? "in" : "out");
  if (!prefill) fmt::print("  {:.1f} tokens/s a user\n", 1 / e.latency_seconds);
  fmt::print("\n");
}

void print_choices(const std::vector<ServingChoice>& choices, bool prefill, int shown) {
  fmt::print("{:<48} {:>8} {:>12} {:>10} {:>8}\n", prefill ? "prefill unit" : "decode unit",
             prefill ? "tokens" : "batch", "tokens/s", "latency ms", "GB");
  int lines = 0;
  for (const ServingChoice& choice : choices) {
    if (lines++ == shown) break;
    const Deployment& d = choice.deployment;
    if (choice.excluded.empty())
      fmt::print("{:<48} {:>8} {:>12.0f} {:>10.1f} {:>8.1f}\n", deployment_name(d),
                 prefill ? d.tokens_a_gpu : d.batch_a_gpu, choice.estimate.tokens_a_second_a_node,
                 kMs * choice.estimate.latency_seconds, choice.estimate.memory.total() / kGb);
    else
      fmt::print("{:<48} excluded: {}\n", deployment_name(d), choice.excluded);
  }
  fmt::print("\n");
}

ordered_json choices_json(const std::vector<ServingChoice>& choices, bool prefill) {
  ordered_json list = ordered_json::array();
  for (const ServingChoice& choice : choices) {
    ordered_json entry = estimate_json(choice.deployment, choice.estimate, prefill);
    if (!choice.excluded.empty())
      entry = {{"unit", deployment_name(choice.deployment)}, {"excluded", choice.excluded}};
    list.push_back(entry);
  }
  return list;
}

void one_unit(const Inputs& in, const PlanServeOptions& options, bool prefill, ordered_json& json) {
  Deployment deployment = prefill ? *in.prefill : *in.decode;
  const char* const unit = prefill ? "prefill" : "decode";
  if (options.search) {
    const auto choices = prefill ? search_prefill(in.model, deployment, in.cluster, in.rates, in.limits)
                                 : search_decode(in.model, deployment, in.cluster, in.rates, in.limits);
    if (options.json)
      json[unit] = choices_json(choices, prefill);
    else
      print_choices(choices, prefill, options.shown);
    return;
  }
  if (!prefill && !in.batch_given)
    deployment = largest_decode_batch(in.model, deployment, in.cluster, in.rates, in.limits);
  const ServingEstimate estimate = prefill ? estimate_prefill(in.model, deployment, in.cluster, in.rates)
                                           : estimate_decode(in.model, deployment, in.cluster, in.rates);
  if (options.json)
    json[unit] = estimate_json(deployment, estimate, prefill);
  else
    print_estimate(unit, deployment, estimate, prefill);
}
}  // namespace

int run_plan_serve(const PlanServeOptions& options) {
  const Inputs inputs = read_inputs(options);
  ordered_json json;
  if (inputs.prefill) one_unit(inputs, options, true, json);
  if (inputs.decode) one_unit(inputs, options, false, json);
  if (options.json) fmt::print("{}\n", json.dump(2));
  return 0;
}

}  // namespace moray
