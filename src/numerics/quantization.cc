#include "numerics/quantization.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "report/progress.h"

namespace moray::numerics {

std::vector<QuantizationSummary> summarize_quantization(const std::vector<StepMetrics>& metrics) {
  std::vector<QuantizationSummary> classes;
  for (const StepMetrics& row : metrics)
    for (const QuantizedClass& codes : row.quantization) {
      auto found = std::find_if(classes.begin(), classes.end(),
                                [&](const QuantizationSummary& known) { return known.name == codes.name; });
      if (found == classes.end()) {
        classes.push_back({.name = codes.name, .worst_step = row.step});
        found = classes.end() - 1;
      }
      const auto elements = static_cast<double>(codes.elements);
      ++found->steps;
      found->elements += elements;
      found->underflow += codes.underflow * elements;
      found->saturated += codes.saturated * elements;
      found->last_underflow = codes.underflow;
      if (codes.underflow > found->worst_underflow) {
        found->worst_underflow = codes.underflow;
        found->worst_step = row.step;
      }
    }
  for (QuantizationSummary& summary : classes) {
    summary.underflow /= std::max(summary.elements, 1.0);
    summary.saturated /= std::max(summary.elements, 1.0);
    summary.elements /= static_cast<double>(summary.steps);
  }
  return classes;
}

std::string quantization_table(const std::vector<QuantizationSummary>& classes) {
  std::string table;
  const auto out = std::back_inserter(table);
  const auto share = [](double of) { return of == 0 ? std::string("0") : fmt::format("{:.2e}", of); };
  fmt::format_to(out, "{:<20} {:>6} {:>10}  {:>10} {:>10} {:>10} {:>8}  {:>10}\n", "share of elements", "",
                 "not 0", "underflow", "the worst", "", "the last", "saturated");
  fmt::format_to(out, "{:<20} {:>6} {:>10}  {:>10} {:>10} {:>10} {:>8}  {:>10}\n", "tensor class", "steps",
                 "a step", "", "step", "at step", "step", "");
  for (const QuantizationSummary& of : classes)
    fmt::format_to(out, "{:<20} {:>6} {:>10}  {:>10} {:>10} {:>10} {:>8}  {:>10}\n", of.name, of.steps,
                   short_count(of.elements), share(of.underflow), share(of.worst_underflow), of.worst_step,
                   share(of.last_underflow), share(of.saturated));
  return table;
}

}  // namespace moray::numerics
