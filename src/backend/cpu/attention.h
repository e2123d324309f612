// What the forward and backward kernels of attention share: the geometry of one (sample, head) and its
// blocks.
//
// T rows of a sample, N qk_nope_head_dim, R qk_rope_head_dim, K = N + R, V v_head_dim.
#pragma once

#include <algorithm>

#include "ops/mla_attention.h"

namespace moray::cpu {

constexpr int64_t kAttentionBlock =
    128;                              // queries and keys of a block, at absolute multiples (docs/numerics.md)
constexpr int64_t kWidthBlock = 128;  // longest chain of FMAs along a head's width

// On the diagonal, work above it is left out in groups of this many rows; a multiple of every tile, the same
// for all instruction sets.
constexpr int64_t kDiagonalGroup = 32;

// Rows of a block of scores are this far apart: an odd number of cache lines, so that a column spreads over
// the cache.
constexpr int64_t kScoreStride = kAttentionBlock + 16;

constexpr float kLowestScore = -1e30f;  // finite, so that differences of two stay numbers

// Pointers to row 0 of one sample and to the columns of one head.
struct AttentionHead {
  const float *q, *kv, *k_rope;
  int64_t q_stride, kv_stride, o_stride;
  int64_t rows, nope, rope, value;
  int64_t first_query;  // the row that q begins with
  float scale;
  const int32_t* document_starts;  // may be null

  int64_t key() const { return nope + rope; }
  int64_t blocks() const { return (rows + kAttentionBlock - 1) / kAttentionBlock; }
  int64_t block_rows(int64_t block) const {
    return std::min(kAttentionBlock, rows - block * kAttentionBlock);
  }
  const float* q_row(int64_t row) const { return q + (row - first_query) * q_stride; }
  const float* v_row(int64_t row) const { return kv + row * kv_stride + nope; }

  // The first key block that any query of a block sees.
  int64_t first_key_block(int64_t query_block) const {
    if (document_starts == nullptr) return 0;
    const int32_t* starts = document_starts + query_block * kAttentionBlock;
    return *std::min_element(starts, starts + block_rows(query_block)) / kAttentionBlock;
  }
};

inline AttentionHead attention_head(const Tensor& q, const Tensor& kv, const Tensor& k_rope,
                                    const MlaShape& shape, const AttentionMask& mask, int64_t sample,
                                    int64_t head) {
  const int64_t row = sample * mask.rows_per_sample;
  AttentionHead h;
  h.nope = shape.qk_nope_head_dim;
  h.rope = shape.qk_rope_head_dim;
  h.value = shape.v_head_dim;
  h.rows = mask.rows_per_sample;
  h.first_query = mask.first_query;
  h.q_stride = shape.q_width();
  h.kv_stride = shape.kv_width();
  h.o_stride = shape.o_width();
  h.q = q.data<float>() + row * h.q_stride + head * h.key();
  h.kv = kv.data<float>() + row * h.kv_stride + head * (h.nope + h.value);
  h.k_rope = k_rope.data<float>() + row * h.rope;
  h.scale = static_cast<float>(shape.softmax_scale);
  h.document_starts =
      mask.document_starts_T.defined() ? mask.document_starts_T.data<int32_t>() + row : nullptr;
  return h;
}

struct AttentionBackwardArgs {
  const Tensor &d_o, &q, &kv, &k_rope, &o, &lse_HT;
  const MlaShape& shape;
  const AttentionMask& mask;
  const Tensor &dq, &dkv, &dk_rope;
};

// Positions are compared as f32; scores are compared before scaling.
void check_attention(const MlaShape& shape, const AttentionMask& mask);

void attention_forward(Exec&, const Tensor& q, const Tensor& kv, const Tensor& k_rope, const MlaShape&,
                       const AttentionMask&, const Tensor& o, const Tensor& lse_HT);
void attention_backward(Exec&, const Tensor& d_o, const Tensor& q, const Tensor& kv, const Tensor& k_rope,
                        const Tensor& o, const Tensor& lse_HT, const MlaShape&, const AttentionMask&,
                        const Tensor& dq, const Tensor& dkv, const Tensor& dk_rope);

}  // namespace moray::cpu
