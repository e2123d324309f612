#include "apps/plan_serve_command.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "apps/output.h"
#include "apps/plan_model.h"
#include "base/config.h"
#include "base/error.h"
#include "plan/serving_unit.h"

namespace moray {

namespace {
using namespace plan;
using nlohmann::ordered_json;

constexpr double kMs = 1e3, kGb = 1e9;
constexpr const char* kPhaseNames[kBlockPhases] = {"attention", "dispatch", "experts", "combine"};

std::vector<ServingUnit> read_units(const PlanServeOptions& options) {
  Config recipe = Config::read(options.recipe);
  for (const std::string& assignment : options.assignments) recipe.set(assignment);
  ServingUnit shared;
  const std::string model = recipe.string("model");
  shared.model = read_plan_model((fs::path(options.recipe).parent_path() / model).string());
  shared.limits = ServingLimits::from_config(recipe);
  shared.cluster = read_cluster(options.cluster);
  if (!options.rates.empty()) shared.rates = read_rates(options.rates);
  std::vector<ServingUnit> units;
  for (const char* section : {"prefill", "decode"}) {
    if (!recipe.has(section)) continue;
    ServingUnit& unit = units.emplace_back(shared);
    unit.prefill = section == std::string_view("prefill");
    unit.deployment = Deployment::from_config(recipe, section);
    unit.largest_batch = !unit.prefill && !recipe.has("decode.batch_a_gpu");
    for (const std::string& what_if : options.what_ifs) apply(what_if_of(what_if), unit);
    const std::string why = unit.deployment.objection(unit.model, unit.cluster);
    if (!options.search && !why.empty())  // a search says of each unit why it cannot be
      fail("{}: [{}]: {}", options.recipe, section, why);
  }
  if (units.empty()) fail("{}: neither [prefill] nor [decode]", options.recipe);
  recipe.reject_unknown_keys();
  return units;
}

const char* name_of(const ServingUnit& unit) {
  return unit.prefill ? "prefill" : "decode";
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

std::string estimate_text(const ServingUnit& unit, const ServingResult& result) {
  const Deployment& d = result.deployment;
  const ServingEstimate& e = result.estimate;
  std::string text = fmt::format("{}: {}\n", name_of(unit), deployment_name(d));
  const auto line = [&]<typename... T>(fmt::format_string<T...> format, T&&... values) {
    text += "  " + fmt::format(format, std::forward<T>(values)...) + "\n";
  };
  if (unit.prefill)
    line("{} tokens a GPU and pass, {:.1f}% of the input cached, {:.0f}% of the time at work", d.tokens_a_gpu,
         100 * d.cache_hits, 100 * d.load);
  else
    line("{} requests a GPU, {} tokens of context, {:.2f} tokens a step", d.batch_a_gpu, d.context,
         tokens_a_step(d));
  for (int phase = 0; phase < kBlockPhases; ++phase)
    line("{:<10} {:>9.3f} ms a layer and micro-batch", kPhaseNames[phase],
         kMs * e.phase_seconds[static_cast<size_t>(phase)]);
  line("pass {:.1f} ms; {} {:.1f} ms{}", kMs * e.pass_seconds, unit.prefill ? "first token" : "a token",
       kMs * e.latency_seconds,
       e.latency_seconds > unit.limit_seconds()
           ? fmt::format(", OVER THE LIMIT of {:.4g} ms", kMs * unit.limit_seconds())
           : "");
  line("memory a GPU: weights {:.1f} GB, latent cache {:.1f}, buffers {:.1f}: {:.1f} of {:.1f}{}",
       e.memory.weights / kGb, e.memory.cache / kGb, e.memory.buffers / kGb, e.memory.total() / kGb,
       unit.cluster.memory_bytes.value / kGb, e.fits ? "" : "  DOES NOT FIT");
  line("{:.1f}k tokens/s {} a node", e.tokens_a_second_a_node / 1e3, unit.prefill ? "in" : "out");
  if (!unit.prefill) line("{:.1f} tokens/s a user", 1 / e.latency_seconds);
  return text + "\n";
}

// Of all units side by side.
std::string what_if_text(const std::vector<ServingUnit>& units, const std::vector<ServingResult>& results) {
  std::string text = "what if (thousands of tokens/s a node)\n";
  std::vector<std::vector<ServingWhatIf>> priced;
  for (const ServingUnit& unit : units) priced.push_back(price_what_ifs(unit));
  for (size_t row = 0; row < all_what_ifs().size(); ++row) {
    const WhatIf what_if = all_what_ifs()[row];
    text += fmt::format("  {}: {}\n", what_if_name(what_if), what_if_about(what_if));
    for (size_t u = 0; u < units.size(); ++u) {
      const ServingWhatIf& with = priced[u][row];
      const double now = results[u].estimate.tokens_a_second_a_node;
      text += fmt::format("    {:<8}{:>7.1f} {:>+6.1f}%{}\n", name_of(units[u]),
                          with.tokens_a_second_a_node / 1e3, 100 * (with.tokens_a_second_a_node / now - 1),
                          with.nothing.empty() ? "" : "  nothing: " + with.nothing);
    }
  }
  return text;
}

std::string choices_text(const std::vector<ServingChoice>& choices, bool prefill, int shown) {
  std::string text =
      fmt::format("{:<48} {:>8} {:>12} {:>10} {:>8}\n", prefill ? "prefill unit" : "decode unit",
                  prefill ? "tokens" : "batch", "tokens/s", "latency ms", "GB");
  int lines = 0;
  for (const ServingChoice& choice : choices) {
    if (lines++ == shown) break;
    const Deployment& d = choice.deployment;
    if (choice.excluded.empty())
      text += fmt::format("{:<48} {:>8} {:>12.0f} {:>10.1f} {:>8.1f}\n", deployment_name(d),
                          prefill ? d.tokens_a_gpu : d.batch_a_gpu, choice.estimate.tokens_a_second_a_node,
                          kMs * choice.estimate.latency_seconds, choice.estimate.memory.total() / kGb);
    else
      text += fmt::format("{:<48} excluded: {}\n", deployment_name(d), choice.excluded);
  }
  return text + "\n";
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

// What goes to stdout, whole or not at all.
struct Report {
  std::string text;
  ordered_json json;
};

Report search(const std::vector<ServingUnit>& units, int shown) {
  Report report;
  for (const ServingUnit& unit : units) {
    const std::vector<ServingChoice> choices = search_units(unit);
    report.text += choices_text(choices, unit.prefill, shown);
    report.json[name_of(unit)] = choices_json(choices, unit.prefill);
  }
  return report;
}

Report estimate(const std::vector<ServingUnit>& units) {
  Report report;
  std::vector<ServingResult> results;
  for (const ServingUnit& unit : units) {
    const ServingResult& result = results.emplace_back(estimate_unit(unit));
    report.text += estimate_text(unit, result);
    ordered_json& json = report.json[name_of(unit)];
    json = estimate_json(result.deployment, result.estimate, unit.prefill);
    json["within_limit"] = result.estimate.latency_seconds <= unit.limit_seconds();
    for (const ServingWhatIf& with : price_what_ifs(unit)) {
      json["what_if"][what_if_name(with.what_if)] = {{"tokens_a_second_a_node", with.tokens_a_second_a_node}};
      if (!with.nothing.empty()) json["what_if"][what_if_name(with.what_if)]["nothing"] = with.nothing;
    }
  }
  report.text += what_if_text(units, results);
  return report;
}
}  // namespace

int run_plan_serve(const PlanServeOptions& options) {
  const std::vector<ServingUnit> units = read_units(options);
  Report report = options.search ? search(units, options.shown) : estimate(units);
  const ServingUnit& any = units.front();
  std::string heading = fmt::format("{}, kernel rates: {}\n", any.cluster.name, any.rates.source);
  for (const std::string& what_if : options.what_ifs)
    heading += fmt::format("what if: {}\n", what_if_about(what_if_of(what_if)));
  if (options.json)
    print_json(report.json, 2);
  else
    fmt::print("{}\n{}", heading, report.text);
  return 0;
}

}  // namespace moray
