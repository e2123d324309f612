// What serving a model folder would take of this machine's memory, form by form; a part of moray inspect.
#pragma once

#include <nlohmann/json.hpp>

#include "checkpoint/safetensors.h"
#include "models/deepseek/config.h"

namespace moray {

// {"needs": [{weights, context, cache, ..._bytes, "fits"}, ...], ...}; "refused" says why a folder is not served as
// it is.
nlohmann::ordered_json serving_summary(const SafetensorsFolder& folder, const deepseek::ModelConfig& config);

// The same as a table.
void print_serving(const nlohmann::ordered_json& summary);

}  // namespace moray
