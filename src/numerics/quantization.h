// What FP8 training's quantization lost, step by step: the counts of a run's metrics
// (run.quantization_interval_steps) as a table.
#pragma once

#include <string>
#include <vector>

#include "report/metrics.h"

namespace moray::numerics {

// One tensor class over the steps that counted it.
struct QuantizationSummary {
  std::string name;
  int64_t steps = 0;
  double elements = 0;                             // a step, on average
  double underflow = 0, saturated = 0;             // shares of all elements of all steps
  double worst_underflow = 0, last_underflow = 0;  // of a step
  int64_t worst_step = 0;
};

// In the order in which classes appear; empty where no step counted.
std::vector<QuantizationSummary> summarize_quantization(const std::vector<StepMetrics>& metrics);

std::string quantization_table(const std::vector<QuantizationSummary>& classes);

}  // namespace moray::numerics
