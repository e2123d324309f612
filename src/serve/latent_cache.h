// What decoding keeps of past tokens: of each layer and position one latent and one rotary key, shared by all
// heads, rounded to the cache's type.
//
// P positions, C kv_lora_rank, R qk_rope_head_dim.
#pragma once

#include <memory>

#include "models/deepseek/config.h"
#include "ops/mla_decode.h"

namespace moray {

class LatentCache {
 public:
  // `dtype`: bf16; f8_e4m3, latents as codes with a scale for 128 numbers and rotary keys in bf16; or f32,
  // for agreement with training to the bit. `layers` of the model and its MTP modules.
  LatentCache(const deepseek::ModelConfig&, int64_t layers, DType dtype);

  int64_t capacity() const { return capacity_; }
  // Room for that many positions; keeps what is there. Grows one layer at a time, by half at least, but not
  // beyond `most`.
  void reserve(int64_t positions, int64_t most);

  // Rows of a layer (f32) at `position` on, rounded.
  void store(Exec&, int64_t layer, int64_t position, const Tensor& latents_TC, const Tensor& k_rope_TR);
  // The first `positions` of a layer, as stored; until the next reserve().
  CachedLatents rows(int64_t layer, int64_t positions) const;
  // The same as f32.
  CachedLatents widened(Exec&, int64_t layer, int64_t positions) const;

  size_t bytes() const;
  // Of one token in all layers.
  static size_t token_bytes(const deepseek::ModelConfig&, int64_t layers, DType dtype);

 private:
  // With memory of its own, which goes back to the system when the layer grows out of it.
  struct Layer {
    std::unique_ptr<Allocator> memory;
    CachedLatents rows;
  };

  Layer grown(const Layer& old, int64_t capacity) const;
  CachedLatents slice(int64_t layer, int64_t begin, int64_t end) const;

  int64_t latent_, rope_, capacity_ = 0;
  DType dtype_;
  std::vector<Layer> layers_;
};

}  // namespace moray
