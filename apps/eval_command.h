// moray eval: loss, perplexity and bits per byte of a model on held-out text.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "apps/serving.h"
#include "serve/divergence.h"

namespace moray {

struct EvalOptions {
  ServingOptions serving;
  std::string data;             // a dataset folder (its held-out split) ...
  std::string text;             // ... or a text file
  int64_t sequence_length = 0;  // 0: the model's max_position_embeddings, at most 1024
  std::string against;          // a model to compare with
  bool json = false;
};
int run_eval(const EvalOptions&);

// How far the model's predictions are from those of `against`, as JSON and as lines of text.
nlohmann::ordered_json divergence_json(const Divergence&);
std::string divergence_text(const Divergence&);
Divergence measure_divergence(const EvalOptions&);

}  // namespace moray
