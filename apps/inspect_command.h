// moray inspect: what a file or folder holds.
#pragma once

#include <string>

namespace moray {

struct InspectOptions {
  std::string path;  // recipe, model folder, checkpoint, run, dataset, tokenizer.json or a safetensors file
  bool tensors = false;  // list every tensor
  bool memory = false;   // of a recipe: what its layers keep for the backward pass
  bool json = false;
};
int run_inspect(const InspectOptions&);

}  // namespace moray
