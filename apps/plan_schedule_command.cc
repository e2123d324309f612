#include "apps/plan_schedule_command.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "apps/output.h"
#include "base/error.h"
#include "base/files.h"
#include "parallel/check.h"
#include "parallel/print.h"
#include "parallel/timeline.h"

namespace moray {

namespace {

using Json = nlohmann::ordered_json;

constexpr double kMostCost = 1e12;

ChunkCosts parse_costs(const std::string& text) {
  std::array<double, 4> costs{};
  const char* at = text.data();
  const char* const end = at + text.size();
  for (size_t i = 0; i < costs.size(); ++i) {
    const auto [next, error] = std::from_chars(at, end, costs[i]);
    const bool last = i + 1 == costs.size();
    if (error != std::errc() || (last ? next != end : next == end || *next != ','))
      fail("--costs: must be four numbers F,B,W,FB, got '{}'", text);
    if (!(costs[i] >= 0 && costs[i] <= kMostCost))
      fail("--costs: each must be between 0 and {:g}, got '{}'", kMostCost, text);
    at = next + 1;
  }
  if (costs[2] > costs[1]) fail("--costs: W is a part of B, got B {:g} and W {:g}", costs[1], costs[2]);
  return {.forward = costs[0], .backward = costs[1], .weight = costs[2], .pair = costs[3]};
}

struct Findings {
  Schedule schedule;
  ChunkCosts costs;
  Verdict verdict;
  Timeline timeline;
  double formula = 0;
  int formula_peak = 0;
};

Findings examine(const PlanScheduleOptions& options) {
  const ScheduleKind kind = schedule_kind_from_name(options.schedule);
  const ChunkCosts costs = parse_costs(options.costs);
  if (!(options.hop >= 0 && options.hop <= kMostCost))
    fail("--hop: must be between 0 and {:g}, got {:g}", kMostCost, options.hop);
  Findings found{make_schedule(kind, options.ranks, options.micro_batches), costs, {}, {}, 0, 0};
  found.verdict = check_schedule(found.schedule);
  if (!found.verdict.ok) fail("{}", found.verdict.problem);
  const HopCost hop = [&](int, int, const Step&) { return options.hop; };
  found.timeline = simulate(found.schedule, uniform_cost(costs), hop);
  found.formula = published_bubble(kind, options.ranks, costs);
  found.formula_peak = published_peak_activations(kind, options.ranks);
  return found;
}

// Without the rounding of a sum: 7.2, not 7.199999999999996.
double tidy(double value) {
  return std::abs(value) < 1e-9 ? 0.0 : value;
}

std::string bubble_line(const Findings& found) {
  const double makespan = found.timeline.makespan, bubble = found.timeline.worst_bubble;
  return fmt::format(
      "time {:.6g}, bubble of the worst rank {:.6g} ({:.1f}%), formula {:.6g}, difference {:.6g}", makespan,
      tidy(bubble), makespan > 0 ? 100 * tidy(bubble) / makespan : 0.0, tidy(found.formula),
      tidy(bubble - found.formula));
}

Json step_json(const Step& step) {
  static constexpr std::array kNames = {
      "forward",         "backward",           "backward_input", "backward_weight", "pair",
      "send_activation", "receive_activation", "send_gradient",  "receive_gradient"};
  Json json{{"kind", kNames.at(static_cast<size_t>(step.kind))},
            {"micro_batch", step.micro_batch},
            {"chunk", step.chunk}};
  if (step.kind == StepKind::kPair)
    json.update(
        {{"backward_micro_batch", step.backward_micro_batch}, {"backward_chunk", step.backward_chunk}});
  if (!is_compute(step)) json["peer"] = step.peer;
  return json;
}

Json to_json(const Findings& found, bool steps) {
  Json ranks = Json::array();
  for (size_t rank = 0; rank < found.schedule.steps.size(); ++rank) {
    Json entry{{"busy", found.timeline.busy[rank]},
               {"bubble", tidy(found.timeline.bubble[rank])},
               {"peak_activations", found.verdict.peaks[rank].live}};
    for (size_t i = 0; i < found.schedule.steps[rank].size() && steps; ++i) {
      Json step = step_json(found.schedule.steps[rank][i]);
      step["start"] = found.timeline.spans[rank][i].start;
      step["end"] = found.timeline.spans[rank][i].end;
      entry["steps"].push_back(std::move(step));
    }
    ranks.push_back(std::move(entry));
  }
  const ChunkCosts& costs = found.costs;
  return {{"schedule", schedule_name(found.schedule.kind)},
          {"ranks", found.schedule.ranks},
          {"stages", stage_count(found.schedule.kind, found.schedule.ranks)},
          {"micro_batches", found.schedule.micro_batches},
          {"costs",
           {{"forward", costs.forward},
            {"backward", costs.backward},
            {"weight", costs.weight},
            {"pair", costs.pair}}},
          {"time", found.timeline.makespan},
          {"bubble", tidy(found.timeline.worst_bubble)},
          {"bubble_formula", tidy(found.formula)},
          {"peak_activations", found.verdict.peak.live},
          {"peak_activations_table", found.formula_peak},
          {"by_rank", std::move(ranks)}};
}

void print_plain(const Findings& found, bool steps) {
  fmt::print("{}, {} ranks, {} micro-batches; F {:g}, B {:g}, W {:g}, F&B {:g}\n",
             schedule_name(found.schedule.kind), found.schedule.ranks, found.schedule.micro_batches,
             found.costs.forward, found.costs.backward, found.costs.weight, found.costs.pair);
  fmt::print("{}\n", bubble_line(found));
  fmt::print("activations held at most: {} chunks on a rank, table {}\n\n", found.verdict.peak.live,
             found.formula_peak);
  fmt::print("{}", steps ? schedule_listing(found.schedule) : schedule_text(found.schedule, found.timeline));
  fmt::print("\nrank     busy   bubble  activations\n");
  for (size_t rank = 0; rank < found.schedule.steps.size(); ++rank)
    fmt::print("{:>4} {:>8.6g} {:>8.6g} {:>12}\n", rank, found.timeline.busy[rank],
               tidy(found.timeline.bubble[rank]), found.verdict.peaks[rank].live);
}

}  // namespace

int run_plan_schedule(const PlanScheduleOptions& options) {
  const Findings found = examine(options);
  if (!options.svg.empty())
    write_file_atomically(options.svg, schedule_svg(found.schedule, found.timeline, bubble_line(found)));
  if (options.json)
    print_json(to_json(found, options.steps));
  else
    print_plain(found, options.steps);
  return 0;
}

}  // namespace moray
