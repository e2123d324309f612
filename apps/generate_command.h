// moray generate: text from a model, continued or filled in.
#pragma once

#include <string>
#include <vector>

#include "apps/serving.h"

namespace moray {

struct GenerateCommandOptions {
  ServingOptions serving;
  std::string prompt;          // continue this ...
  std::string prefix, suffix;  // ... or fill in between these
  bool fill_in = false;        // prefix and suffix were given
  int64_t max_tokens = 128;
  SamplingOptions sampling{.temperature = 0.8, .top_p = 0.95};
  std::vector<std::string> logit_bias;  // "TOKEN=BIAS"
  std::vector<std::string> stop;        // strings
  bool ignore_end = false;
  int64_t logprobs = -1;
  bool json = false;
};
int run_generate(const GenerateCommandOptions&);

// "TOKEN=BIAS" items into sampling.logit_bias. Throws Error naming the item.
void parse_logit_bias(const std::vector<std::string>& items, SamplingOptions& sampling);

}  // namespace moray
