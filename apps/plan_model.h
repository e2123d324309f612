// The model a plan is about.
#pragma once

#include <string>

#include "models/deepseek/config.h"

namespace moray {

// From a recipe's [model] (.toml), a Hugging Face config.json, or a folder that holds one. Throws Error.
deepseek::ModelConfig read_plan_model(const std::string& path);

}  // namespace moray
