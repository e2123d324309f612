// Causal attention of MLA in its expanded form: every head has keys of its own for the part without positions
// and shares one rotary key; values are narrower than keys.
//
// T rows, H heads, N qk_nope_head_dim, R qk_rope_head_dim, V v_head_dim.
//   q_T(H(N+R))   per head: N numbers without position, then R rotated ones
//   kv_T(H(N+V))  per head: N key numbers, then V value numbers (the layout of kv_b_proj)
//   k_rope_TR     rotated, one for all heads
//   o_T(HV), lse_HT = log Σ exp(score) of each row
//
// Memory is O(T): scores live one block at a time. Keys come in blocks of 128 at absolute multiples of 128 in
// the sample; partial results are joined in block order. In the backward pass dq sums over key blocks, dk and
// dv over query blocks (128 at absolute multiples of 128) in ascending order, dk_rope over heads in ascending
// order.
#pragma once

#include "ops/rows.h"

namespace moray {

struct MlaShape {
  int64_t heads = 0, qk_nope_head_dim = 0, qk_rope_head_dim = 0, v_head_dim = 0;
  double softmax_scale = 0;

  int64_t q_width() const { return heads * (qk_nope_head_dim + qk_rope_head_dim); }
  int64_t kv_width() const { return heads * (qk_nope_head_dim + v_head_dim); }
  int64_t o_width() const { return heads * v_head_dim; }
};

// Which keys a row sees: those of its own sample at or before its position and, when document_starts_T (i32,
// positions in the sample) is defined, not before the start of its own packed document.
struct AttentionMask {
  int64_t samples = 0;
  int64_t rows_per_sample = 0;
  Tensor document_starts_T;
  // Forward, one sample: q, o and lse hold the rows from here on, the rows before are keys alone (a prompt's
  // later chunks).
  int64_t first_query = 0;

  int64_t queries() const { return samples * rows_per_sample - first_query; }
};

struct MlaAttentionKernels {
  void (*forward)(Exec&, const Tensor& q, const Tensor& kv, const Tensor& k_rope, const MlaShape&,
                  const AttentionMask&, const Tensor& o, const Tensor& lse_HT) = nullptr;
  void (*backward)(Exec&, const Tensor& d_o, const Tensor& q, const Tensor& kv, const Tensor& k_rope,
                   const Tensor& o, const Tensor& lse_HT, const MlaShape&, const AttentionMask&,
                   const Tensor& dq, const Tensor& dkv, const Tensor& dk_rope) = nullptr;
};

void mla_attention_forward(Exec&, const Tensor& q, const Tensor& kv, const Tensor& k_rope, const MlaShape&,
                           const AttentionMask&, const Tensor& o, const Tensor& lse_HT);

void mla_attention_backward(Exec&, const Tensor& d_o, const Tensor& q, const Tensor& kv, const Tensor& k_rope,
                            const Tensor& o, const Tensor& lse_HT, const MlaShape&, const AttentionMask&,
                            const Tensor& dq, const Tensor& dkv, const Tensor& dk_rope);

}  // namespace moray
