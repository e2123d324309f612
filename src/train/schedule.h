// A value as a function of the tokens trained on: learning rate, batch size, MTP weight λ, balance speed γ.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/config.h"

namespace moray {

enum class PhaseShape : uint8_t { constant, linear, cosine };

struct SchedulePhase {
  int64_t until_tokens = INT64_MAX;
  PhaseShape shape = PhaseShape::constant;
  double to = 0;  // the value at the phase's end; of a constant phase, throughout
};

class Schedule {
 public:
  explicit Schedule(double constant) : phases_{{INT64_MAX, PhaseShape::constant, constant}} {}
  Schedule(double from, std::vector<SchedulePhase> phases) : from_(from), phases_(std::move(phases)) {}

  // A phase runs from the end of the one before it; after the last the value stays.
  double at(int64_t tokens) const;
  double greatest() const;

  // `key` holds a number, or an array of tables {until_tokens or until_fraction (of total_tokens), shape =
  // "linear" | "cosine" | "constant", to}, the first with `from` (default 0). Throws Error for an empty list,
  // falling token counts or an unknown shape.
  static Schedule from_recipe(Config& recipe, const std::string& key, double fallback, int64_t total_tokens);

 private:
  double from_ = 0;
  std::vector<SchedulePhase> phases_;
};

}  // namespace moray
