// Two runs of one recipe in different precisions, side by side: how far their losses part, beside the noise
// floor.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "report/report.h"

namespace moray::numerics {

// With the V3 report's bound: smoothed by an EMA of 0.9, FP8 stayed within 0.25% of BF16.
struct ComparisonOptions {
  double ema_decay = 0.9;
  double limit = 0.0025;
  int64_t from_step =
      0;  // first step that counts; 0: the first at the greatest learning rate, where warm-up ends
};

// One step, smoothed losses in nats a token.
struct ComparisonStep {
  int64_t step = 0, tokens = 0;
  double baseline = 0, other = 0;
  double error() const { return other / baseline - 1; }  // relative, signed
};

struct ErrorSummary {
  double greatest = 0;  // max |error|
  int64_t greatest_step = 0;
  std::array<double, 3> greatest_by_third{};  // of the first, second and last third of the steps
  double mean = 0;                            // of the signed errors: a bias
  double rms = 0;
  double last = 0;
  int64_t steps = 0, beyond_limit = 0;
  int64_t not_finite = 0;  // steps left out because the loss of one of the two is not finite
};

// A run against the baseline.
struct RunComparison {
  std::string name;
  std::vector<ComparisonStep> steps;  // all common steps; those before from_step do not count
  ErrorSummary loss;
  std::vector<ErrorSummary> mtp_loss;      // one a depth
  std::optional<double> validation_error;  // relative, at the last step where both measured it
};

struct Comparison {
  ComparisonOptions options;
  std::string baseline;
  int64_t from_step = 0, last_step = 0;
  RunComparison run;
  std::optional<RunComparison>
      floor;  // noise: the baseline again from weights one unit in the last place away
};

// `floor` may be nullptr. Throws Error when runs trained on other numbers of tokens at a step (they then saw
// other batches), when their recipes differ in more than precision, or no step counts. Steps whose loss is
// not finite in one of two runs (skipped ones) are left out.
Comparison compare_runs(const RunRecord& baseline, const RunRecord& run, const RunRecord* floor,
                        const ComparisonOptions& options);

std::string comparison_table(const Comparison& comparison);
// A self-contained page; `further` is HTML at its end.
std::string comparison_html(const Comparison& comparison, const std::string& further = {});

}  // namespace moray::numerics
