// One sequence on one model: prompt tokens in chunks, generated tokens one by one, its past in a latent
// cache.
//
// T tokens, D hidden, V vocabulary. Results depend on the tokens and on which of them are prompt, not on
// chunks, threads or what was in the cache before.
#pragma once

#include "serve/forward.h"

namespace moray {

struct EngineOptions {
  DType cache_dtype = DType::bf16;  // or f8_e4m3; f32: prompts agree with training to the bit
  int64_t chunk_tokens = 512;
  int64_t context_tokens = 0;  // the most tokens; 0: the model's max_position_embeddings
  int64_t expanded_bytes = kExpandedBytes;
};

class Engine {
 public:
  // `served` must outlive the engine.
  Engine(Exec& exec, const ServedModel& served, const EngineOptions& options);

  // States after the final norm of some tokens, the first at position `first`.
  using StatesReader = std::function<void(int64_t first, const Tensor& states_TD)>;

  // Told after every layer how many tokens of a prompt are computed, a chunk's by the share of its layers;
  // false stops.
  using PromptProgress = std::function<bool(int64_t tokens)>;

  // Appends tokens as prompt and returns the state after the final norm of the last, [1, D]. `read`, if
  // given, gets those of all, chunk by chunk. Stopped by `progress` it returns an undefined tensor and keeps
  // whole chunks. Throws Error beyond the context.
  Tensor append_prompt(std::span<const int32_t> ids, const StatesReader& read = {},
                       const PromptProgress& progress = {});
  // Appends a generated token and returns its state.
  Tensor append_generated(int32_t id);
  // Forgets all tokens from `length` on.
  void truncate(int64_t length);
  // Forgets what a prompt that begins with `ids` cannot use: the rest, and tokens that were generated.
  // Returns how many tokens stay; the last of `ids` never does, for its state is wanted.
  int64_t keep_prefix(std::span<const int32_t> ids);

  Tensor logits(const Tensor& states_TD);  // [T, V]
  // log p(target) of each row; bits as training's loss where head and cache are f32.
  std::vector<float> logprobs(const Tensor& states_TD, std::span<const int32_t> targets);

  const std::vector<int32_t>& tokens() const { return tokens_; }
  int64_t length() const { return static_cast<int64_t>(tokens_.size()); }
  int64_t context_tokens() const { return context_tokens_; }
  size_t cache_bytes() const { return cache_.bytes(); }
  const deepseek::ModelConfig& config() const { return served_.model.config; }

  // When set, the experts chosen by every call are appended, MoE layer by MoE layer.
  ChosenExperts* chosen = nullptr;

 private:
  Tensor append(std::span<const int32_t> ids, AttentionForm form,
                const std::function<bool(double)>& of_layers = {});
  std::vector<float> logprobs_of_codes(const Tensor& states_TD, std::span<const int32_t> targets);
  void expect_room(int64_t more);
  void reserve(int64_t positions);

  Exec& exec_;
  const ServedModel& served_;
  int64_t chunk_tokens_, context_tokens_, expanded_bytes_;
  LatentCache cache_;
  RopeTable rope_;
  std::vector<int32_t> tokens_;
  int64_t prompt_length_ = 0;  // tokens before the first generated one
};

}  // namespace moray
