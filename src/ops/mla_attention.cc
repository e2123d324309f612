#include "ops/mla_attention.h"

#include "ops/checks.h"

namespace moray {

namespace {
void expect_inputs(const char* op, const Tensor& q, const Tensor& kv, const Tensor& k_rope, const MlaShape& shape,
                   const AttentionMask& mask) {
  const int64_t rows = mask.samples * mask.rows_per_sample;
  expect_shape(op, "q", q, {rows, shape.q_width()});
  expect_shape(op, "kv", kv, {rows, shape.kv_width()});
  expect_shape(op, "k_rope", k_rope, {rows, shape.qk_rope_head_dim});
  if (mask.document_starts_T.defined()) {
    expect_shape(op, "document_starts", mask.document_starts_T, {rows});
    expect_dtype(op, "document_starts", mask.document_starts_T, DType::i32);
  }
}
}  // namespace

void mla_attention_forward(Exec& exec, const Tensor& q, const Tensor& kv, const Tensor& k_rope,
                           const MlaShape& shape, const AttentionMask& mask, const Tensor& o, const Tensor& lse_HT) {
  expect_inputs("mla_attention_forward", q, kv, k_rope, shape, mask);
  expect_shape("mla_attention_forward", "o", o, {q.extent(0), shape.o_width()});
  expect_shape("mla_attention_forward", "lse", lse_HT, {shape.heads, q.extent(0)});
  filled(kernels<MlaAttentionKernels>(exec.device).forward, "mla_attention_forward", exec.device)(
      exec, q, kv, k_rope, shape, mask, o, lse_HT);
}

void mla_attention_backward(Exec& exec, const Tensor& d_o, const Tensor& q, const Tensor& kv, const Tensor& k_rope,
                            const Tensor& o, const Tensor& lse_HT, const MlaShape& shape, const AttentionMask& mask,
                            const Tensor& dq, const Tensor& dkv, const Tensor& dk_rope) {
  expect_inputs("mla_attention_backward", q, kv, k_rope, shape, mask);
  expect_inputs("mla_attention_backward", dq, dkv, dk_rope, shape, mask);
  expect_shape("mla_attention_backward", "o", o, {q.extent(0), shape.o_width()});
  expect_shape("mla_attention_backward", "d_o", d_o, o.shape());
  expect_shape("mla_attention_backward", "lse", lse_HT, {shape.heads, q.extent(0)});
  filled(kernels<MlaAttentionKernels>(exec.device).backward, "mla_attention_backward", exec.device)(
      exec, d_o, q, kv, k_rope, o, lse_HT, shape, mask, dq, dkv, dk_rope);
}

}  // namespace moray
