// The memory that serving takes, counted from a model's shape before anything is read.
#pragma once

#include "models/deepseek/config.h"

namespace moray {

// How the matrices of the layers are held. The embedding stays BF16, norms, routers and biases F32.
enum class WeightForm : uint8_t {
  bf16,
  fp8,   // as published folders are: the head BF16
  int8,  // as moray quantize makes them (checkpoint/int_weights.h)
  int4,
};
inline constexpr WeightForm kWeightForms[] = {WeightForm::bf16, WeightForm::fp8, WeightForm::int8, WeightForm::int4};
std::string_view weight_form_name(WeightForm form);  // "BF16", "FP8", "8-bit", "4-bit"

// Of the main model; MTP modules are not served.
size_t weight_bytes(const deepseek::ModelConfig& config, WeightForm form);

// The most an engine works in beside weights and cache, for prompts in chunks of `chunk_tokens`.
size_t working_bytes(const deepseek::ModelConfig& config, int64_t chunk_tokens, int64_t context_tokens);

}  // namespace moray
