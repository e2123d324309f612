// The predicted chunk pair held against a trace of one.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "plan/chunk_pair.h"
#include "plan/trace_report.h"

namespace moray::plan {

struct PairComparison {
  struct Row {
    std::string name;
    double predicted_ms = 0, traced_ms = 0;
    double residual_ms() const { return traced_ms - predicted_ms; }
  };
  std::string rates;  // where the predicted times come from
  PairPrediction prediction;
  std::vector<Row> totals;   // pair, compute busy, communication busy, hidden, exposed, idle
  std::vector<Row> classes;  // by class of kernel (shares), then dispatch, combine, synchronize
};

// `layers`: of both the forward and the backward chunk. The prediction sees only layers, machine and
// overheads.
PairComparison compare_pair(const TraceReport& trace, const std::vector<LayerWork>& layers,
                            const Machine& machine, const PairOverheads& overheads = {});

std::string comparison_table(const PairComparison& comparison);
nlohmann::ordered_json comparison_json(const PairComparison& comparison);

}  // namespace moray::plan
