// Continuing the sequence of an engine, token by token.
#pragma once

#include "serve/engine.h"
#include "serve/sampler.h"

namespace moray {

struct GenerateOptions {
  SamplingOptions sampling;
  int64_t max_tokens = 128;
  std::vector<int32_t> end_tokens;  // generation stops before them
  int64_t sampled_vocabulary =
      0;  // ids from here on are never drawn (logit rows beyond the tokenizer's size)
  // Told how many of the prompt's tokens to compute are computed; false stops before the first token.
  std::function<bool(int64_t done, int64_t total)> prompt_progress = {};
  bool prompt_logprobs = false;  // of the prompt's tokens; all of it is computed then
  int64_t top_logprobs = -1;     // that many likeliest tokens beside the one drawn; −1: no logprobs
};

struct GeneratedToken {
  int32_t id = 0;
  TokenLogprobs logprobs = {};  // where asked for
};

enum class FinishReason : uint8_t { stop, length, stopped_by_caller };

struct Generation {
  std::vector<int32_t> tokens;
  FinishReason finish = FinishReason::length;
  double prompt_seconds = 0, seconds = 0;  // of the prompt, and of the tokens
  std::vector<float> prompt_logprobs;  // where asked for: of each token but the first, after those before it
  int64_t computed_prompt_tokens = 0;  // the rest of the prompt was in the cache
};

// Throws Error when prompt and new tokens exceed the context.
void expect_within_context(int64_t prompt_tokens, int64_t max_tokens, int64_t context_tokens);

// `emit` gets each token as it is drawn, and returns false to stop. What of the prompt is in the cache as
// prompt is not computed again. Throws Error also where expect_within_context does.
Generation generate(Engine&, std::span<const int32_t> prompt, const GenerateOptions&,
                    const std::function<bool(const GeneratedToken&)>& emit);

}  // namespace moray
