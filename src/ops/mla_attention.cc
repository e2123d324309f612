#include "ops/mla_attention.h"

#include "ops/checks.h"

namespace moray {

namespace {
void expect_inputs(const char* op, const Tensor& q, const Tensor& kv, const Tensor& k_rope,
                   const MlaShape& shape, const AttentionMask& mask) {
  const int64_t rows = mask.samples * mask.rows_per_sample;
  MORAY_CHECK(mask.first_query == 0 || mask.samples == 1, "[{}] queries from {} on of {} samples", op,
              mask.first_query, mask.samples);
  expect_shape(op, "q", q, {mask.queries(), shape.q_width()});
  expect_shape(op, "kv", kv, {rows, shape.kv_width()});
  expect_shape(op, "k_rope", k_rope, {rows, shape.qk_rope_head_dim});
  if (mask.document_starts_T.defined()) {
    expect_shape(op, "document_starts", mask.document_starts_T, {rows});
    expect_dtype(op, "document_starts", mask.document_starts_T, DType::i32);
  }
}

// Pairs of a row and a key it sees, isolation of documents not counted.
double causal_pairs(const AttentionMask& mask) {
  const int64_t before = mask.first_query * (mask.first_query + 1) / 2;
  return static_cast<double>(mask.samples * mask.rows_per_sample * (mask.rows_per_sample + 1) / 2 - before);
}

double forward_flops(const MlaShape& shape, const AttentionMask& mask) {
  return 2.0 * static_cast<double>(shape.q_width() + shape.o_width()) * causal_pairs(mask);
}

// Scores again, then the gradients of probabilities, values, queries and keys.
double backward_flops(const MlaShape& shape, const AttentionMask& mask) {
  return 2.0 * static_cast<double>(3 * shape.q_width() + 2 * shape.o_width()) * causal_pairs(mask);
}
}  // namespace

void mla_attention_forward(Exec& exec, const Tensor& q, const Tensor& kv, const Tensor& k_rope,
                           const MlaShape& shape, const AttentionMask& mask, const Tensor& o,
                           const Tensor& lse_HT) {
  expect_inputs("mla_attention_forward", q, kv, k_rope, shape, mask);
  expect_shape("mla_attention_forward", "o", o, {q.extent(0), shape.o_width()});
  expect_shape("mla_attention_forward", "lse", lse_HT, {shape.heads, q.extent(0)});
  launch(exec, "mla_attention_forward", forward_flops(shape, mask),
         kernels<MlaAttentionKernels>(exec.device).forward, q, kv, k_rope, shape, mask, o, lse_HT);
}

void mla_attention_backward(Exec& exec, const Tensor& d_o, const Tensor& q, const Tensor& kv,
                            const Tensor& k_rope, const Tensor& o, const Tensor& lse_HT,
                            const MlaShape& shape, const AttentionMask& mask, const Tensor& dq,
                            const Tensor& dkv, const Tensor& dk_rope) {
  MORAY_CHECK(mask.first_query == 0, "[mla_attention_backward] queries from {} on", mask.first_query);
  expect_inputs("mla_attention_backward", q, kv, k_rope, shape, mask);
  expect_inputs("mla_attention_backward", dq, dkv, dk_rope, shape, mask);
  expect_shape("mla_attention_backward", "o", o, {q.extent(0), shape.o_width()});
  expect_shape("mla_attention_backward", "d_o", d_o, o.shape());
  expect_shape("mla_attention_backward", "lse", lse_HT, {shape.heads, q.extent(0)});
  launch(exec, "mla_attention_backward", backward_flops(shape, mask),
         kernels<MlaAttentionKernels>(exec.device).backward, d_o, q, kv, k_rope, o, lse_HT, shape, mask, dq,
         dkv, dk_rope);
}

}  // namespace moray
