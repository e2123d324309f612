// What each file of this folder offers to register.cc.
#pragma once

#include "ops/adamw.h"
#include "ops/cross_entropy.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/matmul.h"
#include "ops/matmul_fp8.h"
#include "ops/mla_attention.h"
#include "ops/mla_decode.h"
#include "ops/permute.h"
#include "ops/quantize.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "ops/route.h"
#include "ops/swiglu.h"
#include "ops/weight_matmul.h"

namespace moray::reference {

AdamWKernels adamw_kernels();
CrossEntropyKernels cross_entropy_kernels();
ElementwiseKernels elementwise_kernels();
EmbeddingKernels embedding_kernels();
MatmulFp8Kernels matmul_fp8_kernels();
MatmulKernels matmul_kernels();
MlaAttentionKernels mla_attention_kernels();
MlaDecodeKernels mla_decode_kernels();
PermuteKernels permute_kernels();
QuantizeKernels quantize_kernels();
RmsNormKernels rms_norm_kernels();
RopeKernels rope_kernels();
RouteKernels route_kernels();
SwigluKernels swiglu_kernels();
WeightMatmulKernels weight_matmul_kernels();

}  // namespace moray::reference
