// One block, forward only, over some tokens of a sequence whose past is in a latent cache: the layers of
// models/deepseek with stored weights.
//
// T tokens, D hidden, K experts a token.
#pragma once

#include "serve/latent_cache.h"
#include "serve/served_model.h"

namespace moray {

// How tokens are computed: a function of their role, never of cost (docs/numerics.md, "Inference").
enum class AttentionForm : uint8_t {
  expanded,  // prompt tokens: keys and values of every head are rebuilt from the latents
  absorbed   // generated tokens: heads attend to the latents themselves
};

// Keys and values that a prompt's chunk rebuilds at a time, whole heads, one at least: memory stays bounded
// at any length. Heads do not see each other, so nothing else depends on it.
constexpr int64_t kExpandedBytes = int64_t{256} << 20;
int64_t expanded_heads_at_once(const MlaShape&, int64_t positions, int64_t expanded_bytes);

// The tokens of one call: positions [first, first + T) of the sequence. Rows of the tables are positions.
struct SequenceRows {
  int64_t first = 0;
  AttentionForm form = AttentionForm::expanded;
  const RopeTable& rope;
  LatentCache& cache;
  int64_t expanded_bytes = kExpandedBytes;
};

// What a router chose, for those who ask: ids_TK of each MoE layer in order.
using ChosenExperts = std::vector<Tensor>;

Tensor block_forward(Exec&, const deepseek::Block&, const deepseek::Block& scales, int64_t cache_layer,
                     const Tensor& x_TD, const SequenceRows&, ChosenExperts* chosen = nullptr);

// A MTP module: h_TD the state after the final norm (or the previous depth's shared_head_norm), embedding_TD
// of the tokens one (depth) ahead. Returns the state after shared_head_norm.
Tensor mtp_forward(Exec&, const deepseek::MtpModule&, const deepseek::MtpModule& scales, int64_t cache_layer,
                   const Tensor& h_TD, const Tensor& embedding_TD, const SequenceRows&);

// Rows of the embedding table, widened. Throws Error for an id outside the vocabulary.
Tensor embed(Exec&, const Tensor& table_VD, std::span<const int32_t> ids);

}  // namespace moray
