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
inline constexpr WeightForm kWeightForms[] = {WeightForm::bf16, WeightForm::fp8, WeightForm::int8,
                                              WeightForm::int4};
std::string_view weight_form_name(WeightForm form);  // "BF16", "FP8", "8-bit", "4-bit"

// Of the main model; MTP modules are not served.
size_t weight_bytes(const deepseek::ModelConfig& config, WeightForm form);

// The most an engine works in beside weights and cache, for prompts in chunks of `chunk_tokens`.
size_t working_bytes(const deepseek::ModelConfig& config, int64_t chunk_tokens, int64_t context_tokens);

struct MemoryNeed {
  size_t weights = 0, cache = 0, working = 0;  // bytes
  size_t all() const { return weights + cache + working; }
};

// Of weights that take so many bytes, the cache of `context_tokens`, and chunks of a prompt.
MemoryNeed memory_need(const deepseek::ModelConfig& config, size_t weights, DType cache, int64_t chunk_tokens,
                       int64_t context_tokens);

// The memory this machine can give now, and has: MemAvailable and MemTotal of /proc/meminfo.
size_t available_memory_bytes();
size_t machine_memory_bytes();

// Throws Error when the need is more than is available, saying what would fit.
void expect_memory(const deepseek::ModelConfig&, const MemoryNeed&, size_t available_bytes);

}  // namespace moray
