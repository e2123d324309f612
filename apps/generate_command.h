// moray generate: text from a model, continued or filled in.
#pragma once

#include <string>

#include "serve/sampler.h"

namespace moray {

struct GenerateCommandOptions {
  std::string model;
  std::string weights = "model";  // or "ema"
  std::string prompt;             // continue this ...
  std::string prefix, suffix;     // ... or fill in between these
  bool fill_in = false;           // prefix and suffix were given
  int64_t max_tokens = 128;
  SamplingOptions sampling{.temperature = 0.8, .top_p = 0.95};
  int threads = 0;
  bool json = false;
};
int run_generate(const GenerateCommandOptions&);

}  // namespace moray
