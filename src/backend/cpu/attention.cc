#include "backend/cpu/attention.h"

#include "backend/cpu/kernels_list.h"
#include "ops/elementwise.h"

namespace moray::cpu {

void check_attention(const MlaShape& shape, const AttentionMask& mask) {
  MORAY_CHECK(mask.rows_per_sample < (1 << 24) && shape.softmax_scale > 0);
  MORAY_CHECK(shape.qk_nope_head_dim + shape.qk_rope_head_dim > 0 && shape.v_head_dim > 0);
  if (!mask.document_starts_T.defined()) return;
  const int32_t* starts = mask.document_starts_T.data<int32_t>();
  for (int64_t row = 0; row < mask.samples * mask.rows_per_sample; ++row)
    MORAY_CHECK(starts[row] >= 0 && starts[row] <= row % mask.rows_per_sample,
                "[mla_attention] row {} belongs to a document that starts at {}", row, starts[row]);
}

namespace {

// The kernels walk f32: a bf16 tensor is widened whole, and a bf16 output rounded once from f32 sums.
Tensor scratch_like(Exec& exec, const Tensor& tensor) {
  return tensor.dtype() == DType::f32 ? tensor : Tensor::empty(*exec.allocator, tensor.shape(), DType::f32);
}

Tensor widened(Exec& exec, const Tensor& tensor) {
  if (tensor.dtype() == DType::f32) return tensor;
  const Tensor wide = scratch_like(exec, tensor);
  kernels<ElementwiseKernels>(Device::cpu).convert(exec, tensor, wide);
  return wide;
}

void store(Exec& exec, const Tensor& wide, const Tensor& output) {
  if (output.dtype() != DType::f32) kernels<ElementwiseKernels>(Device::cpu).convert(exec, wide, output);
}

void forward(Exec& exec, const Tensor& q, const Tensor& kv, const Tensor& k_rope, const MlaShape& shape,
             const AttentionMask& mask, const Tensor& o, const Tensor& lse_HT) {
  const Tensor o_wide = scratch_like(exec, o);
  attention_forward(exec, widened(exec, q), widened(exec, kv), widened(exec, k_rope), shape, mask, o_wide,
                    lse_HT);
  store(exec, o_wide, o);
}

void backward(Exec& exec, const Tensor& d_o, const Tensor& q, const Tensor& kv, const Tensor& k_rope,
              const Tensor& o, const Tensor& lse_HT, const MlaShape& shape, const AttentionMask& mask,
              const Tensor& dq, const Tensor& dkv, const Tensor& dk_rope) {
  const Tensor dq_wide = scratch_like(exec, dq), dkv_wide = scratch_like(exec, dkv);
  const Tensor dk_rope_wide = scratch_like(exec, dk_rope);
  attention_backward(exec, widened(exec, d_o), widened(exec, q), widened(exec, kv), widened(exec, k_rope),
                     widened(exec, o), lse_HT, shape, mask, dq_wide, dkv_wide, dk_rope_wide);
  store(exec, dq_wide, dq);
  store(exec, dkv_wide, dkv);
  store(exec, dk_rope_wide, dk_rope);
}

}  // namespace

void register_attention() {
  kernels<MlaAttentionKernels>(Device::cpu) = {forward, backward};
}

}  // namespace moray::cpu
