#include "serve/latent_cache.h"

#include <cstring>

namespace moray {

namespace {

constexpr int64_t kRowsAtOnce = 64;

void round_rows(const Exec& exec, const Tensor& from, const Tensor& to) {
  if (to.dtype() == DType::f32) return to.copy_from(from);
  const float* values = from.data<float>();
  bf16* rounded = to.data<bf16>();
  const int64_t width = from.extent(1);
  exec.pool->for_ranges(from.extent(0), kRowsAtOnce, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin * width; i < end * width; ++i) rounded[i] = to_bf16(values[i]);
  });
}

Tensor widen_rows(const Exec& exec, const Tensor& rows) {
  if (rows.dtype() == DType::f32) return rows;
  const Tensor wide = exec.empty(rows.shape());
  const bf16* values = rows.data<bf16>();
  float* to = wide.data<float>();
  const int64_t width = rows.extent(1);
  exec.pool->for_ranges(rows.extent(0), kRowsAtOnce, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin * width; i < end * width; ++i) to[i] = to_float(values[i]);
  });
  return wide;
}

Tensor grown(const Exec& exec, const Tensor& old, Shape shape, DType dtype) {
  const Tensor larger = Tensor::empty(*exec.allocator, shape, dtype);
  if (old.defined()) std::memcpy(larger.raw(), old.raw(), old.bytes());
  return larger;
}

}  // namespace

LatentCache::LatentCache(const Exec& exec, const deepseek::ModelConfig& config, int64_t layers, DType dtype)
    : latent_(config.kv_lora_rank), rope_(config.qk_rope_head_dim), dtype_(dtype) {
  MORAY_CHECK(dtype == DType::bf16 || dtype == DType::f32, "a cache of {}", dtype_name(dtype));
  layers_.resize(static_cast<size_t>(layers));
  reserve(exec, 1);
}

void LatentCache::reserve(const Exec& exec, int64_t positions) {
  if (positions <= capacity_) return;
  constexpr int64_t kLeast = 256;
  const int64_t capacity = std::max({positions, capacity_ + capacity_ / 2, kLeast});
  for (LayerCache& layer : layers_) {
    layer.latents_PC = grown(exec, layer.latents_PC, {capacity, latent_}, dtype_);
    layer.k_rope_PR = grown(exec, layer.k_rope_PR, {capacity, rope_}, dtype_);
  }
  capacity_ = capacity;
}

void LatentCache::store(const Exec& exec, int64_t layer, int64_t position, const Tensor& latents_TC,
                        const Tensor& k_rope_TR) {
  const LayerCache& cache = layers_[static_cast<size_t>(layer)];
  const int64_t end = position + latents_TC.extent(0);
  MORAY_CHECK(end <= capacity_, "position {} of a cache for {}", end, capacity_);
  round_rows(exec, latents_TC, cache.latents_PC.rows(position, end));
  round_rows(exec, k_rope_TR, cache.k_rope_PR.rows(position, end));
}

LayerCache LatentCache::rows(int64_t layer, int64_t positions) const {
  const LayerCache& cache = layers_[static_cast<size_t>(layer)];
  return {cache.latents_PC.rows(0, positions), cache.k_rope_PR.rows(0, positions)};
}

LayerCache LatentCache::widened(const Exec& exec, int64_t layer, int64_t positions) const {
  const LayerCache cache = rows(layer, positions);
  return {widen_rows(exec, cache.latents_PC), widen_rows(exec, cache.k_rope_PR)};
}

size_t LatentCache::bytes() const {
  size_t sum = 0;
  for (const LayerCache& layer : layers_) sum += layer.latents_PC.bytes() + layer.k_rope_PR.bytes();
  return sum;
}

size_t LatentCache::token_bytes(const deepseek::ModelConfig& config, int64_t layers, DType dtype) {
  return static_cast<size_t>(layers * (config.kv_lora_rank + config.qk_rope_head_dim)) * dtype_bytes(dtype);
}

}  // namespace moray
