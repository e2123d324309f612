// moray generate: text from a model, continued or filled in.
#pragma once

#include <string>
#include <vector>

#include "apps/serving.h"

namespace moray {

struct GenerateCommandOptions {
  ServingOptions serving;
  std::string prompt;          // continue this ...
  std::string prompt_file;     // (read from here: a command line takes 128 KiB at most)
  std::string prefix, suffix;  // ... or fill in between these
  bool fill_in = false;        // prefix and suffix were given
  AnswerOptions answer{.max_tokens = 128, .sampling = {.temperature = 0.8, .top_p = 0.95}};
  bool ignore_end = false;
  int64_t logprobs = -1;         // with `json`: of the answer, and that many likeliest tokens
  bool prompt_logprobs = false;  // with `json`
  bool json = false;
};
int run_generate(const GenerateCommandOptions&);

}  // namespace moray
