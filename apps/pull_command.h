// moray pull: a model folder from a hub with Hugging Face's URLs.
#pragma once

#include "hub/pull.h"

namespace moray {

struct PullCommandOptions {
  hub::PullOptions pull;
  std::string output;  // empty: the repository's name, in the working folder
  bool json = false;
};
int run_pull(const PullCommandOptions&);

}  // namespace moray
