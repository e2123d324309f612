#include "apps/plan_command.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "apps/output.h"
#include "base/error.h"
#include "base/files.h"
#include "plan/plan_report.h"
#include "plan/search.h"
#include "plan/shapes.h"

namespace moray {

int run_plan(const PlanOptions& options) {
  const plan::PlanInput input = plan::read_plan(options.recipe, options.cluster, options.assignments);
  const plan::Plan planned = plan::make_plan(input);
  const std::vector<plan::LedgerEntry> ledger = plan::throughput_ledger(input);
  const std::vector<plan::WhatIfResult> what_ifs = plan::price_what_ifs(input);
  if (!options.html.empty()) write_file_atomically(options.html, plan::plan_html(planned, ledger, what_ifs));
  if (!options.trace.empty()) write_file_atomically(options.trace, plan::chrome_trace(planned));
  if (options.json)
    print_json(plan::plan_json(planned, ledger, what_ifs), 2);
  else
    fmt::print("{}\n{}\n{}", plan::plan_table(planned), plan::ledger_table(ledger),
               plan::what_if_table(planned, what_ifs));
  return 0;
}

int run_plan_search(const PlanSearchOptions& options) {
  const PlanOptions& from = options.plan;
  const plan::PlanInput input = plan::read_plan(from.recipe, from.cluster, from.assignments);
  const plan::Layout& own = input.layout;
  plan::SearchSpace space;
  space.gpus = options.gpus.empty() ? std::vector<int64_t>{own.gpus()} : options.gpus;
  space.sequences_a_step =
      options.sequences > 0 ? options.sequences : own.data * own.micro_batch * own.micro_batches;
  if (options.rank_by != "cost" && options.rank_by != "time")
    fail("plan search: --rank-by is '{}', expected cost or time", options.rank_by);
  space.rank_by = options.rank_by == "cost" ? plan::RankBy::cost : plan::RankBy::time;
  const plan::SearchResult result = plan::search_layouts(input, space);
  if (options.plan.json)
    print_json(plan::search_json(result), 2);
  else
    fmt::print("{}", plan::search_table(result, input, static_cast<size_t>(options.most)));
  return 0;
}

int run_plan_shapes(const PlanOptions& options) {
  const std::vector<plan::Shape> shapes =
      plan::sweep_shapes(plan::read_plan(options.recipe, options.cluster, options.assignments));
  if (options.json)
    print_json(plan::shapes_json(shapes), 2);
  else
    fmt::print("{}", plan::shapes_table(shapes));
  return 0;
}

}  // namespace moray
