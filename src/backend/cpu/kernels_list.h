// Every kernel file of this folder has one function that fills its slots; register.cc calls them all.
#pragma once

namespace moray::cpu {

void register_matmul();
void register_matmul_fp8();
void register_cross_entropy();
void register_attention();
void register_quantize();
void register_rms_norm();
void register_rope();
void register_swiglu();
void register_route();
void register_permute();
void register_elementwise();
void register_adamw();
void register_embedding();
void register_weight_matmul();
void register_mla_decode();

}  // namespace moray::cpu
