#include "serve/latent_cache.h"

#include <algorithm>
#include <cstring>

#include "ops/quantize.h"

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

// Into a buffer of `capacity` rows, so that it is the same memory however many there are.
Tensor widen_rows(const Exec& exec, const Tensor& rows, int64_t capacity) {
  if (rows.dtype() == DType::f32) return rows;
  const Tensor wide = exec.empty({capacity, rows.extent(1)}).rows(0, rows.extent(0));
  const bf16* values = rows.data<bf16>();
  float* to = wide.data<float>();
  const int64_t width = rows.extent(1);
  exec.pool->for_ranges(rows.extent(0), kRowsAtOnce, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin * width; i < end * width; ++i) to[i] = to_float(values[i]);
  });
  return wide;
}

DType rope_dtype(DType dtype) {
  return dtype == DType::f8_e4m3 ? DType::bf16 : dtype;
}

int64_t tiles(int64_t columns) {
  return (columns + kTile - 1) / kTile;
}

QuantizedTensor codes_of(const CachedLatents& rows) {
  return {
      .shape = rows.latents_PC.shape(), .codes = rows.latents_PC, .scales = rows.scales_PG, .row_blocks = {}};
}

Tensor larger(Allocator& memory, const Tensor& old, Shape shape, DType dtype) {
  const Tensor tensor = Tensor::empty(memory, shape, dtype);
  if (old.defined()) std::memcpy(tensor.raw(), old.raw(), old.bytes());
  return tensor;
}

}  // namespace

LatentCache::LatentCache(const deepseek::ModelConfig& config, int64_t layers, DType dtype)
    : latent_(config.kv_lora_rank), rope_(config.qk_rope_head_dim), dtype_(dtype) {
  MORAY_CHECK(dtype == DType::bf16 || dtype == DType::f32 || dtype == DType::f8_e4m3, "a cache of {}",
              dtype_name(dtype));
  layers_.resize(static_cast<size_t>(layers));
  reserve(1, config.max_position_embeddings);
}

LatentCache::Layer LatentCache::grown(const Layer& old, int64_t capacity) const {
  Layer layer{std::make_unique<Allocator>(), {}};
  layer.rows.latents_PC = larger(*layer.memory, old.rows.latents_PC, {capacity, latent_}, dtype_);
  layer.rows.k_rope_PR = larger(*layer.memory, old.rows.k_rope_PR, {capacity, rope_}, rope_dtype(dtype_));
  if (dtype_ == DType::f8_e4m3)
    layer.rows.scales_PG = larger(*layer.memory, old.rows.scales_PG, {capacity, tiles(latent_)}, DType::f32);
  return layer;
}

void LatentCache::reserve(int64_t positions, int64_t most) {
  if (positions <= capacity_) return;
  constexpr int64_t kLeast = 256;
  capacity_ = std::max(positions, std::min(most, std::max(capacity_ + capacity_ / 2, kLeast)));
  // An answer to a prompt that nearly fills the context does not copy a cache of its size.
  if (capacity_ + capacity_ / 8 >= most) capacity_ = std::max(capacity_, most);
  for (Layer& layer : layers_) {
    Layer larger = grown(layer, capacity_);
    layer.rows = {};  // before the memory it lies in
    layer = std::move(larger);
  }
}

// NaN and infinity stay in the codes and are noticed in the logits.
void LatentCache::store(Exec& exec, int64_t layer, int64_t position, const Tensor& latents_TC,
                        const Tensor& k_rope_TR) {
  const int64_t end = position + latents_TC.extent(0);
  MORAY_CHECK(end <= capacity_, "position {} of a cache for {}", end, capacity_);
  const CachedLatents to = slice(layer, position, end);
  round_rows(exec, k_rope_TR, to.k_rope_PR);
  if (dtype_ == DType::f8_e4m3)
    (void)quantize(exec, latents_TC, codes_of(to));
  else
    round_rows(exec, latents_TC, to.latents_PC);
}

CachedLatents LatentCache::slice(int64_t layer, int64_t begin, int64_t end) const {
  const CachedLatents& cache = layers_[static_cast<size_t>(layer)].rows;
  return {cache.latents_PC.rows(begin, end), cache.k_rope_PR.rows(begin, end),
          dtype_ == DType::f8_e4m3 ? cache.scales_PG.rows(begin, end) : Tensor()};
}

CachedLatents LatentCache::rows(int64_t layer, int64_t positions) const {
  return slice(layer, 0, positions);
}

CachedLatents LatentCache::widened(Exec& exec, int64_t layer, int64_t positions) const {
  const CachedLatents cache = rows(layer, positions);
  const Tensor k_rope = widen_rows(exec, cache.k_rope_PR, capacity_);
  if (dtype_ != DType::f8_e4m3) return {widen_rows(exec, cache.latents_PC, capacity_), k_rope, {}};
  const Tensor latents = exec.empty({capacity_, latent_}).rows(0, positions);
  dequantize(exec, codes_of(cache), latents);
  return {latents, k_rope, {}};
}

size_t LatentCache::bytes() const {
  size_t sum = 0;
  for (const Layer& layer : layers_)
    for (const Tensor& part : {layer.rows.latents_PC, layer.rows.k_rope_PR, layer.rows.scales_PG})
      if (part.defined()) sum += part.bytes();
  return sum;
}

size_t LatentCache::token_bytes(const deepseek::ModelConfig& config, int64_t layers, DType dtype) {
  const size_t scales =
      dtype == DType::f8_e4m3 ? static_cast<size_t>(tiles(config.kv_lora_rank)) * sizeof(float) : 0;
  return static_cast<size_t>(layers) *
         (static_cast<size_t>(config.kv_lora_rank) * dtype_bytes(dtype) + scales +
          static_cast<size_t>(config.qk_rope_head_dim) * dtype_bytes(rope_dtype(dtype)));
}

}  // namespace moray
