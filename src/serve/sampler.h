// From logits to a token: penalties, temperature and cuts, as a function of the logits, the tokens so far and
// (seed, position) alone.
//
// V vocabulary.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

namespace moray {

// In the order they apply.
struct SamplingOptions {
  double temperature = 1;  // 0: always the likeliest token
  double top_p = 1;        // draw from the smallest set of tokens whose probabilities reach this
  uint64_t seed = 0;
  int64_t top_k = 0;  // draw from that many likeliest tokens; 0: from all
  double min_p = 0;   // and from those at least this much as likely as the likeliest
  // Penalties: repetition divides positive logits of tokens in prompt or answer (and multiplies negative
  // ones); presence is taken off those in the answer once, frequency for each time.
  double repetition_penalty = 1, presence_penalty = 0, frequency_penalty = 0;
  std::map<int32_t, double> logit_bias = {};  // added before all else; −100 bans, 100 forces

  bool changes_logits() const {
    return repetition_penalty != 1 || presence_penalty != 0 || frequency_penalty != 0 || !logit_bias.empty();
  }
  // Throws Error for options out of range.
  void validate() const;
};

// The tokens so far.
struct SampledContext {
  std::span<const int32_t> prompt = {}, answer = {};
};

// `position` is the number of tokens before the one drawn. Among equal logits the lower id comes first.
// Throws Error for logits that are not finite, or options out of range.
int32_t sample_token(std::span<const float> logits_V, const SamplingOptions&, int64_t position,
                     const SampledContext& context = {});

// log p(token) under the logits as the model gave them, all of them, and the `most` likeliest of the first
// `drawable` tokens with theirs.
struct TokenLogprob {
  int32_t token = 0;
  double logprob = 0;
};
struct TokenLogprobs {
  TokenLogprob chosen;
  std::vector<TokenLogprob> top;  // likeliest first; among equals the lower id
};
TokenLogprobs token_logprobs(std::span<const float> logits_V, int32_t chosen, int64_t most,
                             int64_t drawable = INT64_MAX);

}  // namespace moray
