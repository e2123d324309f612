// moray verify: a model folder held against reference outputs of the same weights.
#pragma once

#include <string>

#include "apps/serving.h"

namespace moray {

struct VerifyOptions {
  VerifyOptions() {
    serving.cache = "f32";
    serving.needs_tokenizer = false;
  }

  ServingOptions serving;
  std::string reference;  // empty: reference.json in the folder
  bool json = false;
};
// 0 where all agrees within the tolerance, else 1.
int run_verify(const VerifyOptions&);

}  // namespace moray
