// How far one model's predictions are from another's on the same tokens.
//
// T tokens, V vocabulary.
#pragma once

#include <cmath>
#include <span>

#include "runtime/exec.h"

namespace moray {

// Sums over tokens, in their order, whatever the threads.
struct Divergence {
  int64_t tokens = 0;
  double divergence_nats = 0;                // Σ_t KL(original ‖ model) of the next token's distribution
  double greatest_nats = 0;                  // of one token
  int64_t same_top = 0;                      // the likeliest token is the same (of equals the lower id)
  double model_nats = 0, original_nats = 0;  // Σ −log p of the tokens that came

  double mean() const { return divergence_nats / static_cast<double>(tokens); }
  double perplexity() const { return std::exp(model_nats / static_cast<double>(tokens)); }
  double original_perplexity() const { return std::exp(original_nats / static_cast<double>(tokens)); }
  double same_top_share() const { return static_cast<double>(same_top) / static_cast<double>(tokens); }
};

// Adds some tokens: the logits of both (f32), and what came next.
void add_divergence(Exec&, const Tensor& model_TV, const Tensor& original_TV, std::span<const int32_t> next,
                    Divergence& sums);

}  // namespace moray
