// Continuing one sequence, token by token. Every step computes the whole sequence again, as prompt.
#pragma once

#include <functional>

#include "models/deepseek/model.h"
#include "serve/sampler.h"

namespace moray {

struct GenerateOptions {
  SamplingOptions sampling;
  int64_t max_tokens = 128;
  int32_t end_token = -1;  // generation stops before it
  int64_t sampled_vocabulary =
      0;  // ids from here on are never drawn (logit rows beyond the tokenizer's size)
};

// Returns the new tokens. `emit` gets each as it is drawn, and returns false to stop. Throws Error when
// prompt and max_tokens exceed the model's max_position_embeddings.
std::vector<int32_t> generate(Exec&, const deepseek::Model&, std::span<const int32_t> prompt,
                              const GenerateOptions&, const std::function<bool(int32_t)>& emit);

}  // namespace moray
