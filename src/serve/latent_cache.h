// What decoding keeps of past tokens: of each layer and position one latent and one rotary key, shared by all
// heads, rounded to the cache's type.
//
// P positions, C kv_lora_rank, R qk_rope_head_dim.
#pragma once

#include "models/deepseek/config.h"

namespace moray {

struct LayerCache {
  Tensor latents_PC;  // after kv_a_layernorm
  Tensor k_rope_PR;   // rotated
};

class LatentCache {
 public:
  // `dtype`: bf16, or f32 for agreement with training to the bit. `layers` of the model and its MTP modules.
  LatentCache(const Exec&, const deepseek::ModelConfig&, int64_t layers, DType dtype);

  int64_t capacity() const { return capacity_; }
  // Room for that many positions; keeps what is there. Grows one layer at a time, by half at least.
  void reserve(const Exec&, int64_t positions);

  // Rows of a layer (f32) at `position` on, rounded.
  void store(const Exec&, int64_t layer, int64_t position, const Tensor& latents_TC, const Tensor& k_rope_TR);
  // The first `positions` of a layer, as stored.
  LayerCache rows(int64_t layer, int64_t positions) const;
  // The same as f32.
  LayerCache widened(const Exec&, int64_t layer, int64_t positions) const;

  size_t bytes() const;
  // Of one token in all layers.
  static size_t token_bytes(const deepseek::ModelConfig&, int64_t layers, DType dtype);

 private:
  int64_t latent_, rope_, capacity_ = 0;
  DType dtype_;
  std::vector<LayerCache> layers_;
};

}  // namespace moray
