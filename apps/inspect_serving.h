// What serving a model would take of this machine's memory, form by form; a part of moray inspect.
#pragma once

#include <nlohmann/json.hpp>

#include "checkpoint/safetensors.h"
#include "models/deepseek/config.h"

namespace moray {

// {"needs": [{weights, context, cache, ..._bytes, "fits"}, ...], ...}, of the weights as `stored` in a
// folder, where there are any, and in the forms they could have unless they are quantized already. "refused"
// says why a folder is not served as it is.
nlohmann::ordered_json serving_summary(const deepseek::ModelConfig& config,
                                       const SafetensorsFolder* stored = nullptr, bool quantized = false);

// The same as a table.
void print_serving(const nlohmann::ordered_json& summary);

}  // namespace moray
