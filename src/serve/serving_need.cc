#include "serve/serving_need.h"

#include <fmt/format.h>

#include <algorithm>
#include <sstream>

#include "base/error.h"
#include "base/files.h"
#include "checkpoint/coded_weights.h"
#include "checkpoint/int_weights.h"
#include "models/deepseek/model.h"
#include "serve/forward.h"
#include "serve/latent_cache.h"

namespace moray {

namespace {

DType matrix_dtype(const Parameter& parameter, WeightForm form) {
  const int64_t columns = parameter.tensor->extent(-1);
  switch (form) {
    case WeightForm::fp8:
      return parameter.kind == ParameterKind::table ? DType::bf16 : DType::f8_e4m3;
    case WeightForm::int8:
      return int_weight_dtype(parameter.name, columns, IntFormat::int8).value_or(DType::bf16);
    case WeightForm::int4:
      return int_weight_dtype(parameter.name, columns, IntFormat::int4).value_or(DType::bf16);
    default:
      return DType::bf16;
  }
}

size_t parameter_bytes(const Parameter& parameter, WeightForm form) {
  const Shape& shape = parameter.tensor->shape();
  const auto bytes = [](const Shape& of, DType as) {
    return static_cast<size_t>(of.elements()) * dtype_bytes(as);
  };
  if (shape.rank() == 1 || parameter.name.ends_with("mlp.gate.weight")) return bytes(shape, DType::f32);
  const DType dtype = matrix_dtype(parameter, form);
  const size_t scales = has_scales(dtype) ? bytes(scales_shape(shape, dtype), DType::f32) : 0;
  return bytes(stored_shape(shape, dtype), dtype) + scales;
}

}  // namespace

std::string_view weight_form_name(WeightForm form) {
  switch (form) {
    case WeightForm::fp8:
      return "FP8";
    case WeightForm::int8:
      return "8-bit";
    case WeightForm::int4:
      return "4-bit";
    default:
      return "BF16";
  }
}

size_t weight_bytes(const deepseek::ModelConfig& config, WeightForm form) {
  deepseek::ModelConfig main = config;
  main.num_nextn_predict_layers = 0;
  deepseek::Model shapes =
      deepseek::make_model(main, [](const Shape& shape) { return Tensor::shape_only(shape, DType::f32); });
  size_t sum = 0;
  for (const Parameter& parameter : list_parameters(shapes)) sum += parameter_bytes(parameter, form);
  return sum;
}

namespace {

// Numbers that a chunk of T tokens holds in block_forward, by its parts: what one part frees, the others, of
// other sizes, do not take.
int64_t chunk_numbers(const deepseek::ModelConfig& config, int64_t T) {
  const MlaShape mla = config.mla();
  const int64_t D = config.hidden_size, F = config.moe_intermediate_size;
  const int64_t attention = 6 * D + 2 * mla.q_width() + 2 * mla.o_width() + 2 * config.q_lora_rank +
                            3 * (config.kv_lora_rank + config.qk_rope_head_dim) + mla.heads;
  const int64_t dense = config.first_k_dense_replace > 0 ? 3 * config.intermediate_size + D : 0;
  const bool any_moe = config.first_k_dense_replace < config.num_hidden_layers;
  const int64_t moe = config.num_experts_per_tok * (2 * D + 3 * F + 5) + 3 * config.n_shared_experts * F + D +
                      2 * config.n_routed_experts;
  return T * (attention + dense + (any_moe ? moe : 0));
}

// Of P positions: rotary tables, latents widened, keys and values of some heads; what blocks give a generated
// token.
int64_t context_numbers(const deepseek::ModelConfig& config, int64_t P) {
  const MlaShape mla = config.mla();
  const int64_t width = config.kv_lora_rank + config.qk_rope_head_dim, panels = (mla.heads + 31) / 32 * 32;
  const int64_t of_heads =
      expanded_heads_at_once(mla, P, kExpandedBytes) * (mla.qk_nope_head_dim + mla.v_head_dim);
  const int64_t parts = (P + 127) / 128 * panels * width;  // on enough threads of all blocks at once
  return P * (config.qk_rope_head_dim + width + of_heads) + parts + 4 * panels * width;
}

}  // namespace

// The last chunk of a prompt is shorter and takes memory of sizes of its own. An eighth more is what the
// allocator's sizes leave unused.
size_t working_bytes(const deepseek::ModelConfig& config, int64_t chunk_tokens, int64_t context_tokens) {
  const int64_t chunk = std::min(chunk_tokens, context_tokens), chunks = chunk < context_tokens ? 2 : 1;
  const int64_t numbers =
      chunks * chunk_numbers(config, chunk) + context_numbers(config, context_tokens) + 2 * config.vocab_size;
  return static_cast<size_t>(numbers + numbers / 8) * sizeof(float);
}

namespace {

size_t memory_line(std::string_view key) {
  std::istringstream lines(read_file("/proc/meminfo"));
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with(key)) return std::stoull(line.substr(key.size())) << 10;
  fail("/proc/meminfo: there is no {}", key);
}

// What would fit where the weights as stored do not: a shorter context, else the first narrower form.
std::string advice(const deepseek::ModelConfig& config, const MemoryNeed& need, size_t available_bytes,
                   double gib) {
  const size_t weights = need.weights, rest_bytes = need.cache + need.working;
  const bool mostly_context = rest_bytes > weights && weights < available_bytes;
  if (weights + rest_bytes / 2 <= available_bytes || mostly_context)
    return "a shorter --context, fewer --max-tokens or the --cache fp8 would fit";
  for (WeightForm form : {WeightForm::int8, WeightForm::int4}) {  // what moray quantize makes
    const size_t bytes = weight_bytes(config, form);
    if (bytes < weights && bytes + rest_bytes <= available_bytes)
      return fmt::format("in {} ({:.1f} GiB) they would fit, see moray quantize", weight_form_name(form),
                         static_cast<double>(bytes) / gib);
  }
  return "they do not fit in 4-bit either";
}

}  // namespace

size_t available_memory_bytes() {
  return memory_line("MemAvailable:");
}

size_t machine_memory_bytes() {
  return memory_line("MemTotal:");
}

MemoryNeed memory_need(const deepseek::ModelConfig& config, size_t weights, DType cache, int64_t chunk_tokens,
                       int64_t context_tokens) {
  return {
      weights,
      static_cast<size_t>(context_tokens) * LatentCache::token_bytes(config, config.num_hidden_layers, cache),
      working_bytes(config, chunk_tokens, context_tokens)};
}

void expect_memory(const deepseek::ModelConfig& config, const MemoryNeed& need, size_t available_bytes) {
  if (need.all() <= available_bytes) return;
  constexpr double kGib = 1 << 30;
  const auto gib = [](size_t bytes) { return static_cast<double>(bytes) / kGib; };
  fail(
      "the weights need {:.1f} GiB, the cache {:.1f} and work {:.1f} of memory, this machine has {:.1f} "
      "free; {} "
      "(moray inspect shows every form)",
      gib(need.weights), gib(need.cache), gib(need.working), gib(available_bytes),
      advice(config, need, available_bytes, kGib));
}

}  // namespace moray
