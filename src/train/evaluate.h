// How well a model predicts a stream of tokens: every token once, given up to sequence_length tokens before
// it.
#pragma once

#include <functional>

#include "models/deepseek/model.h"

namespace moray {

// Tokens [begin, begin + out.size()) of a stream.
using TokenReader = std::function<void(int64_t begin, std::span<int32_t> out)>;

struct Evaluation {
  double nats = 0;  // −Σ log p over all tokens
  int64_t tokens = 0;

  double loss() const { return nats / static_cast<double>(tokens); }  // nats a token
  double perplexity() const;
  double bits_per_byte(uint64_t bytes) const;  // of the text the tokens stand for
};

// The stream is cut into windows of sequence_length; the first token of the stream is predicted from
// `before_first` (the end-of-sentence token), the first of every other window from the token before it.
// `progress` (may be empty) gets the number of tokens done.
Evaluation evaluate(Exec&, const deepseek::Model&, const RopeTable&, const TokenReader&, int64_t tokens,
                    int64_t sequence_length, int32_t before_first,
                    const std::function<void(int64_t)>& progress);

}  // namespace moray
