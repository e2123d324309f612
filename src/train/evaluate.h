// How well a model predicts a stream of tokens, or windows spread over it: every token of a window once,
// given those before it in the window.
#pragma once

#include <functional>
#include <span>
#include <vector>

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

// Tokens [begin, begin + length) of a stream.
struct TokenWindow {
  int64_t begin, length;
  bool operator==(const TokenWindow&) const = default;
};

// The stream is cut into windows of sequence_length, the last maybe shorter. Of these as many as hold
// `tokens` tokens, evenly spread over the stream: each from the middle of its share; all, where tokens >=
// stream_tokens.
std::vector<TokenWindow> spread_windows(int64_t stream_tokens, int64_t tokens, int64_t sequence_length);

// The first token of the stream is predicted from `before_first` (the end-of-sentence token), the first of
// every other window from the token before it. Needs a window.
Evaluation evaluate(Exec&, const deepseek::Model&, const RopeTable&, const TokenReader&,
                    std::span<const TokenWindow>, int32_t before_first);

}  // namespace moray
