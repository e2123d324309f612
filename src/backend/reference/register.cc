#include "backend/reference/register.h"

#include "backend/reference/kernels.h"

namespace moray::reference {

void register_kernels() {
  const Device device = Device::reference;
  kernels<AdamWKernels>(device) = adamw_kernels();
  kernels<CrossEntropyKernels>(device) = cross_entropy_kernels();
  kernels<ElementwiseKernels>(device) = elementwise_kernels();
  kernels<EmbeddingKernels>(device) = embedding_kernels();
  kernels<MatmulFp8Kernels>(device) = matmul_fp8_kernels();
  kernels<MatmulKernels>(device) = matmul_kernels();
  kernels<MlaAttentionKernels>(device) = mla_attention_kernels();
  kernels<MlaDecodeKernels>(device) = mla_decode_kernels();
  kernels<PermuteKernels>(device) = permute_kernels();
  kernels<QuantizeKernels>(device) = quantize_kernels();
  kernels<RmsNormKernels>(device) = rms_norm_kernels();
  kernels<RopeKernels>(device) = rope_kernels();
  kernels<RouteKernels>(device) = route_kernels();
  kernels<SwigluKernels>(device) = swiglu_kernels();
  kernels<WeightMatmulKernels>(device) = weight_matmul_kernels();
}

}  // namespace moray::reference
