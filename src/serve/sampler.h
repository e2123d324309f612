// From logits to a token: temperature and top-p, as a function of (seed, position) alone.
//
// V vocabulary.
#pragma once

#include <cstdint>
#include <span>

namespace moray {

struct SamplingOptions {
  double temperature = 1;  // 0: always the likeliest token
  double top_p = 1;        // draw from the smallest set of tokens whose probabilities reach this
  uint64_t seed = 0;
};

// `position` is the number of tokens before the one drawn. Among equal logits the lower id comes first.
// Throws Error for logits that are not finite, or options out of range.
int32_t sample_token(std::span<const float> logits_V, const SamplingOptions&, int64_t position);

}  // namespace moray
