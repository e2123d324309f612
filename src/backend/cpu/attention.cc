#include "backend/cpu/attention.h"

#include "backend/cpu/kernels_list.h"

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

void register_attention() {
  kernels<MlaAttentionKernels>(Device::cpu) = {attention_forward, attention_backward};
}

}  // namespace moray::cpu
