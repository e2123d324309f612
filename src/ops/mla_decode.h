// Attention of MLA in its absorbed form, for generated tokens: the key half of kv_b_proj is folded into the
// query, so that all heads attend to the cached latents themselves; its value half multiplies what comes out.
//
// T tokens, H heads, N qk_nope_head_dim, R qk_rope_head_dim, V v_head_dim, C kv_lora_rank, P cached
// positions.
//
// absorb: each output sums over N as ops/matmul.h says. attend: a score sums over the C + R numbers of a
// latent and its rotary key as ops/matmul.h says, then is scaled. Blocks of 128 positions are attended to as
// if alone: exp(score − the block's greatest) is summed in 16 virtual lanes joined by halves, and latents
// weighed by it in one chain of FMAs. Blocks are joined in order, as in attention's forward pass: with the
// greatest score so far, own = exp(block's − greatest) and past = exp(before − greatest), run = fma(own,
// part, past · run) and the sum of probabilities likewise; at the end outputs are divided by it.
#pragma once

#include "ops/mla_attention.h"
#include "ops/weight_matmul.h"

namespace moray {

// The past of a layer as a cache holds it: f32, bf16, or (the form of 656 bytes at V3's shape) latents as
// E4M3 codes with an f32 scale for 128 columns of a row and rotary keys in bf16. An element of a code is
// round32(decode(code) · scale).
struct CachedLatents {
  Tensor latents_PC;  // after kv_a_layernorm
  Tensor k_rope_PR;   // rotated
  Tensor scales_PG;   // of codes: f32 [P, ceil(C/128)]
};

struct MlaDecodeKernels {
  void (*absorb)(Exec&, const Tensor& q, const StoredWeight& kv_b_proj, const MlaShape&,
                 const Tensor& q_latent) = nullptr;
  void (*attend)(Exec&, const Tensor& q, const Tensor& q_latent, const CachedLatents&, const MlaShape&,
                 const Tensor& o_latent) = nullptr;
};

// q_latent_T(HC)[t, h] = Σ_n q[t, h, n] · kv_b_proj[h(N + V) + n]; q as in ops/mla_attention.h. The rows of a
// quantized kv_b_proj have scales of their own, so its elements are widened and the queries kept, whatever
// the format.
void mla_absorb(Exec&, const Tensor& q, const StoredWeight& kv_b_proj, const MlaShape&,
                const Tensor& q_latent);

// One token (T = 1) over all P cached positions, its own among them.
void mla_attend(Exec&, const Tensor& q, const Tensor& q_latent, const CachedLatents& past, const MlaShape&,
                const Tensor& o_latent);

}  // namespace moray
