// moray pull: a model folder from a hub with Hugging Face's URLs.
#pragma once

#include "hub/pull.h"

namespace moray {

struct PullCommandOptions {
  hub::PullOptions pull;
  std::string output;    // empty: the repository's name, in the working folder
  std::string quantize;  // "8bit" or "4bit"; empty: as it is
  bool json = false;
};
int run_pull(const PullCommandOptions&);

}  // namespace moray
