#include "plan/chunk_pair_report.h"

#include <fmt/format.h>

#include <iterator>
#include <nlohmann/json.hpp>

#include "plan/trace_rates.h"

namespace moray::plan {

namespace {
constexpr double kMs = 1e3;

std::vector<PairComparison::Row> class_rows(const TraceReport& trace, const std::vector<LayerWork>& layers,
                                            const PairPrediction& pair, const Machine& machine) {
  std::vector<PairComparison::Row> rows;
  const Work work = pair_work(layers);
  for (size_t i = 0; i < kKernelClasses; ++i) {
    const auto kernel_class = static_cast<KernelClass>(i);
    Work alone;
    alone[kernel_class] = work[kernel_class];
    rows.push_back({kernel_class_name(kernel_class), kMs * machine.seconds(alone),
                    class_ms(trace, kernel_class, TimeBasis::share)});
  }
  double dispatch = 0, combine = 0;
  for (const PairSpan& span : pair.spans) {
    if (!is_communication(span.phase)) continue;
    const bool to_experts =
        span.phase == PairPhase::dispatch_forward || span.phase == PairPhase::combine_backward;
    (to_experts ? dispatch : combine) += span.end - span.start;
  }
  rows.push_back({"dispatch", kMs * dispatch, trace.of(TraceClass::dispatch).kernel_ms});
  rows.push_back({"combine", kMs * combine, trace.of(TraceClass::combine).kernel_ms});
  rows.push_back({"synchronize", 0, trace.of(TraceClass::synchronize).kernel_ms});
  return rows;
}

void append_rows(std::string& out, const std::vector<PairComparison::Row>& rows) {
  for (const PairComparison::Row& row : rows)
    fmt::format_to(std::back_inserter(out), "{:<20} {:>12.1f} {:>10.1f} {:>+11.1f}\n", row.name,
                   row.predicted_ms, row.traced_ms, row.residual_ms());
}

nlohmann::ordered_json rows_json(const std::vector<PairComparison::Row>& rows) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const PairComparison::Row& row : rows)
    list.push_back({{"name", row.name}, {"predicted_ms", row.predicted_ms}, {"traced_ms", row.traced_ms}});
  return list;
}
}  // namespace

PairComparison compare_pair(const TraceReport& trace, const std::vector<LayerWork>& layers,
                            const Machine& machine, const PairOverheads& overheads) {
  PairComparison comparison;
  comparison.rates = machine.rates.source;
  comparison.prediction = predict_pair(layers, layers, machine, overheads);
  const PairPrediction& pair = comparison.prediction;
  comparison.totals = {{"pair", kMs * pair.seconds, trace.span_ms},
                       {"compute busy", kMs * pair.compute_seconds, trace.compute_busy_ms},
                       {"communication busy", kMs * pair.communication_seconds, trace.communication_busy_ms},
                       {"  hidden", kMs * pair.hidden_seconds, trace.hidden_ms},
                       {"  exposed", kMs * pair.exposed_seconds, trace.exposed_ms},
                       {"idle", kMs * pair.idle_seconds, trace.idle_ms}};
  comparison.classes = class_rows(trace, layers, pair, machine);
  return comparison;
}

std::string comparison_table(const PairComparison& comparison) {
  std::string out = fmt::format("rates: {}\n{:<20} {:>12} {:>10} {:>11}\n", comparison.rates, "",
                                "predicted ms", "traced ms", "residual ms");
  append_rows(out, comparison.totals);
  append_rows(out, comparison.classes);
  return out;
}

nlohmann::ordered_json comparison_json(const PairComparison& comparison) {
  return {{"rates", comparison.rates},
          {"totals", rows_json(comparison.totals)},
          {"classes", rows_json(comparison.classes)}};
}

}  // namespace moray::plan
