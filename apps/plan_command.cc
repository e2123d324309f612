#include "apps/plan_command.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/files.h"
#include "plan/plan_report.h"

namespace moray {

int run_plan(const PlanOptions& options) {
  const plan::PlanInput input = plan::read_plan(options.recipe, options.cluster, options.assignments);
  const plan::Plan planned = plan::make_plan(input);
  const std::vector<plan::LedgerEntry> ledger = plan::throughput_ledger(input);
  const std::vector<plan::WhatIfResult> what_ifs = plan::price_what_ifs(input);
  if (!options.html.empty()) write_file_atomically(options.html, plan::plan_html(planned, ledger, what_ifs));
  if (!options.trace.empty()) write_file_atomically(options.trace, plan::chrome_trace(planned));
  if (options.json)
    fmt::print("{}\n", plan::plan_json(planned, ledger, what_ifs).dump(2));
  else
    fmt::print("{}\n{}\n{}", plan::plan_table(planned), plan::ledger_table(ledger),
               plan::what_if_table(planned, what_ifs));
  return 0;
}

}  // namespace moray
