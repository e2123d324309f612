#include "train/schedule.h"

#include <cmath>

#include <algorithm>

#include "base/error.h"
#include "base/math.h"

namespace moray {

double Schedule::at(int64_t tokens) const {
  constexpr double kPi = 3.14159265358979323846;
  double value = from_;
  int64_t begin = 0;
  for (const SchedulePhase& phase : phases_) {
    if (phase.shape == PhaseShape::constant) value = phase.to;
    if (tokens <= phase.until_tokens) {
      if (phase.shape == PhaseShape::constant) return value;
      const double share =
          static_cast<double>(tokens - begin) / static_cast<double>(phase.until_tokens - begin);
      const double risen = phase.shape == PhaseShape::linear ? share : 0.5 - 0.5 * portable::cos(kPi * share);
      return value + (phase.to - value) * risen;
    }
    value = phase.to;
    begin = phase.until_tokens;
  }
  return value;
}

double Schedule::greatest() const {
  double greatest = from_;
  for (const SchedulePhase& phase : phases_) greatest = std::max(greatest, phase.to);
  return greatest;
}

namespace {
int64_t end_of_phase(Config& recipe, const std::string& at, int64_t total_tokens) {
  if (!recipe.has(at + ".until_fraction")) return recipe.integer(at + ".until_tokens", INT64_MAX);
  if (recipe.has(at + ".until_tokens"))
    fail("{}: give until_tokens or until_fraction, not both", recipe.where(at));
  const double fraction = recipe.number(at + ".until_fraction", 1);
  if (!(fraction > 0 && fraction <= 1))
    fail("{} is {}, expected more than 0 and at most 1", recipe.where(at + ".until_fraction"), fraction);
  return static_cast<int64_t>(fraction * static_cast<double>(total_tokens));
}

// What schedules set (rates, sizes, weights) is never negative.
double value_at(Config& recipe, const std::string& key, double fallback) {
  const double value = recipe.number(key, fallback);
  if (!(value >= 0 && std::isfinite(value)))
    fail("{} is {}, expected a finite number, 0 or more", recipe.where(key), value);
  return value;
}
}  // namespace

Schedule Schedule::from_recipe(Config& recipe, const std::string& key, double fallback,
                               int64_t total_tokens) {
  if (!recipe.is_array(key)) return Schedule(value_at(recipe, key, fallback));
  const int64_t count = recipe.table_count(key);
  if (count == 0) fail("{} has no phase", recipe.where(key));
  const double from = value_at(recipe, key + ".0.from", 0);
  std::vector<SchedulePhase> phases;
  int64_t begin = 0;
  for (int64_t index = 0; index < count; ++index) {
    const std::string at = fmt::format("{}.{}", key, index);
    SchedulePhase phase;
    phase.until_tokens = end_of_phase(recipe, at, total_tokens);
    const std::string shape = recipe.string(at + ".shape", "constant");
    if (shape == "linear")
      phase.shape = PhaseShape::linear;
    else if (shape == "cosine")
      phase.shape = PhaseShape::cosine;
    else if (shape != "constant")
      fail("{} is '{}', expected 'linear', 'cosine' or 'constant'", recipe.where(at + ".shape"), shape);
    phase.to = value_at(recipe, at + ".to", 0);
    if (phase.until_tokens <= begin)
      fail("{} ends at {} tokens, expected more than {}, where the phase before it ends", recipe.where(at),
           phase.until_tokens, begin);
    if (phase.shape != PhaseShape::constant && phase.until_tokens == INT64_MAX)
      fail("{}: a {} phase needs until_tokens", recipe.where(at), shape);
    begin = phase.until_tokens;
    phases.push_back(phase);
  }
  return Schedule(from, std::move(phases));
}

}  // namespace moray
