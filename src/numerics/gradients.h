// The gradient of one batch in different precisions, from the same weights: how far each layer's turns.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "train/recipe.h"
#include "train/trainer.h"

namespace moray::numerics {

// Of two gradients of the same parameters.
struct GradientAngle {
  double dot = 0, squares_a = 0, squares_b = 0;

  double cosine() const;           // 1 where both are 0, 0 where one is
  double relative_length() const;  // |b| / |a| - 1; 0 where both are 0
  void add(const GradientAngle& other);
};

// One layer, or one kind of weight.
struct GradientRow {
  std::string name;
  GradientAngle runs;                                  // baseline and run
  std::optional<GradientAngle> baseline_f32, run_f32;  // f32 and each of them; none where that is f32 itself
};

struct GradientComparison {
  int64_t step = 0, samples = 0;
  std::string baseline, run;  // precisions, as the recipes say them
  GradientRow all;
  std::vector<GradientRow> layers,
      kinds;  // "embedding", "layer 0", ..., "final norm", "head", "MTP 1"; tensor_kind
};

// Both gradients of the `samples` samples that follow the checkpoint, at its weights; and that in f32 beside
// them. The recipes may differ in precision alone as far as the gradient goes. Throws Error when models or
// sequence lengths differ, or a gradient is not finite.
GradientComparison compare_gradients(Exec& exec, const Checkpoint& checkpoint, const Recipe& baseline,
                                     const Recipe& run, const SampleSource& source, int64_t samples);

std::string gradients_table(const GradientComparison& comparison);
std::string gradients_html(const GradientComparison& comparison);  // cards for a page's grid

}  // namespace moray::numerics
