#include "numerics/compare.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "base/config.h"
#include "base/error.h"

namespace moray::numerics {

namespace {

// Rows of two runs at the same step.
struct Pair {
  const StepMetrics* baseline;
  const StepMetrics* other;
};

std::vector<Pair> common_steps(const RunRecord& baseline, const RunRecord& other) {
  std::vector<Pair> pairs;
  auto b = other.metrics.begin();
  for (const StepMetrics& a : baseline.metrics) {
    while (b != other.metrics.end() && b->step < a.step) ++b;
    if (b == other.metrics.end()) break;
    if (b->step != a.step) continue;
    if (b->tokens != a.tokens)
      fail("step {}: {} had seen {} tokens, {} {}: these runs did not train on the same batches", a.step,
           baseline.name, a.tokens, other.name, b->tokens);
    pairs.push_back({&a, &*b});
  }
  return pairs;
}

// Keys that two runs of one recipe in different precisions may differ in. Where the dataset lies says nothing
// about what it is.
bool is_of_precision(const std::string& key) {
  for (const char* prefix : {"train.precision", "train.fp8.", "train.recompute_", "train.adamw.moments",
                             "train.perturb_initial_weights", "train.micro_batch", "run.", "data.dataset"})
    if (key.starts_with(prefix)) return true;
  return false;
}

void expect_same_recipe(const RunRecord& baseline, const RunRecord& other) {
  for (const std::string& key : changed_keys(baseline.recipe, other.recipe))
    if (!is_of_precision(key))
      fail("{} and {} differ in {}, not in precision alone", baseline.name, other.name, key);
}

// Where the learning rate is greatest for the first time.
int64_t end_of_warm_up(const RunRecord& run) {
  const auto greatest = std::max_element(
      run.metrics.begin(), run.metrics.end(),
      [](const StepMetrics& a, const StepMetrics& b) { return a.learning_rate < b.learning_rate; });
  return greatest == run.metrics.end() ? 0 : greatest->step;
}

class Smoothed {
 public:
  explicit Smoothed(double decay) : decay_(decay) {}
  double add(double value) {
    value_ = started_ ? decay_ * value_ + (1 - decay_) * value : value;
    started_ = true;
    return value_;
  }

 private:
  double decay_, value_ = 0;
  bool started_ = false;
};

using Loss = std::function<double(const StepMetrics&)>;

// Steps without a finite loss in both (skipped ones) are left out of the smoothing as well.
std::vector<ComparisonStep> smoothed_steps(const std::vector<Pair>& pairs, double decay, const Loss& loss) {
  Smoothed baseline(decay), other(decay);
  std::vector<ComparisonStep> steps;
  for (const Pair& pair : pairs) {
    const double a = loss(*pair.baseline), b = loss(*pair.other);
    if (!std::isfinite(a) || !std::isfinite(b)) continue;
    steps.push_back({pair.baseline->step, pair.baseline->tokens, baseline.add(a), other.add(b)});
  }
  return steps;
}

ErrorSummary summary_of(const std::vector<ComparisonStep>& steps, int64_t from_step, double limit) {
  ErrorSummary summary;
  const auto counted = std::ranges::subrange(
      std::ranges::find_if(steps, [&](const ComparisonStep& step) { return step.step >= from_step; }),
      steps.end());
  for (const ComparisonStep& step : counted) {
    const double error = step.error(), size = std::abs(error);
    if (size >= summary.greatest) summary.greatest = size, summary.greatest_step = step.step;
    double& of_third =
        summary.greatest_by_third[static_cast<size_t>(3 * summary.steps / std::ssize(counted))];
    of_third = std::max(of_third, size);
    summary.mean += error;
    summary.rms += error * error;
    summary.last = error;
    ++summary.steps;
    summary.beyond_limit += size > limit;
  }
  if (summary.steps > 0) {
    summary.mean /= static_cast<double>(summary.steps);
    summary.rms = std::sqrt(summary.rms / static_cast<double>(summary.steps));
  }
  return summary;
}

std::optional<double> validation_error(const std::vector<Pair>& pairs) {
  std::optional<double> error;
  for (const Pair& pair : pairs)
    if (pair.baseline->validation_loss && pair.other->validation_loss)
      error = *pair.other->validation_loss / *pair.baseline->validation_loss - 1;
  return error;
}

RunComparison compare(const RunRecord& baseline, const RunRecord& other, int64_t from_step,
                      const ComparisonOptions& options) {
  expect_same_recipe(baseline, other);
  const std::vector<Pair> pairs = common_steps(baseline, other);
  RunComparison comparison;
  comparison.name = other.name;
  comparison.steps = smoothed_steps(pairs, options.ema_decay, [](const StepMetrics& m) { return m.loss; });
  comparison.loss = summary_of(comparison.steps, from_step, options.limit);
  comparison.loss.not_finite = static_cast<int64_t>(pairs.size() - comparison.steps.size());
  if (comparison.loss.steps == 0)
    fail("{} and {} have no step in common from step {} on", baseline.name, other.name, from_step);
  size_t depths = 0;
  for (const Pair& pair : pairs)
    depths = std::max(depths, std::min(pair.baseline->mtp_loss.size(), pair.other->mtp_loss.size()));
  for (size_t depth = 0; depth < depths; ++depth) {
    const Loss loss = [depth](const StepMetrics& m) {
      return depth < m.mtp_loss.size() ? m.mtp_loss[depth] : std::nan("");
    };
    comparison.mtp_loss.push_back(
        summary_of(smoothed_steps(pairs, options.ema_decay, loss), from_step, options.limit));
  }
  comparison.validation_error = validation_error(pairs);
  return comparison;
}

}  // namespace

Comparison compare_runs(const RunRecord& baseline, const RunRecord& run, const RunRecord* floor,
                        const ComparisonOptions& options) {
  Comparison comparison;
  comparison.options = options;
  comparison.baseline = baseline.name;
  comparison.from_step = options.from_step > 0 ? options.from_step : end_of_warm_up(baseline);
  comparison.run = compare(baseline, run, comparison.from_step, options);
  if (floor != nullptr) comparison.floor = compare(baseline, *floor, comparison.from_step, options);
  comparison.last_step = comparison.run.steps.back().step;
  return comparison;
}

}  // namespace moray::numerics
