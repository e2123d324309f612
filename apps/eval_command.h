// moray eval: loss, perplexity and bits per byte of a model on held-out text.
#pragma once

#include <string>

#include "apps/serving.h"

namespace moray {

struct EvalOptions {
  ServingOptions serving;
  std::string data;               // a dataset folder (its held-out split) ...
  std::string text;               // ... or a text file
  int64_t sequence_length = 0;    // 0: the model's max_position_embeddings, at most 1024
  std::string against;            // a model to compare with
  bool json = false;
};
int run_eval(const EvalOptions&);

}  // namespace moray
