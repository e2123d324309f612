#include "ops/mla_decode.h"

#include "ops/checks.h"

namespace moray {

void mla_absorb(Exec& exec, const Tensor& q, const StoredWeight& kv_b_proj, const MlaShape& shape,
                const Tensor& q_latent) {
  const int64_t tokens = q.extent(0), latent = kv_b_proj.inputs();
  expect_shape("mla_absorb", "q", q, {tokens, shape.q_width()});
  MORAY_CHECK(kv_b_proj.outputs() == shape.kv_width(), "[mla_absorb] kv_b_proj has {} rows, expected {}",
              kv_b_proj.outputs(), shape.kv_width());
  expect_shape("mla_absorb", "q_latent", q_latent, {tokens, shape.heads * latent});
  launch(exec, "mla_absorb",
         2.0 * static_cast<double>(tokens * shape.heads * shape.qk_nope_head_dim * latent),
         kernels<MlaDecodeKernels>(exec.device).absorb, q, kv_b_proj, shape, q_latent);
}

void mla_attend(Exec& exec, const Tensor& q, const Tensor& q_latent, const CachedLatents& past,
                const MlaShape& shape, const Tensor& o_latent) {
  const int64_t positions = past.latents_PC.extent(0), latent = past.latents_PC.extent(1);
  const bool codes = past.latents_PC.dtype() == DType::f8_e4m3;
  expect_shape("mla_attend", "q", q, {1, shape.q_width()});
  expect_shape("mla_attend", "q_latent", q_latent, {1, shape.heads * latent});
  expect_shape("mla_attend", "k_rope", past.k_rope_PR, {positions, shape.qk_rope_head_dim});
  expect_dtype("mla_attend", "k_rope", past.k_rope_PR, codes ? DType::bf16 : past.latents_PC.dtype());
  if (codes) expect_shape("mla_attend", "scales", past.scales_PG, {positions, (latent + kTile - 1) / kTile});
  expect_shape("mla_attend", "o_latent", o_latent, {1, shape.heads * latent});
  launch(exec, "mla_attend",
         2.0 * static_cast<double>(positions * shape.heads * (2 * latent + shape.qk_rope_head_dim)),
         kernels<MlaDecodeKernels>(exec.device).attend, q, q_latent, past, shape, o_latent);
}

}  // namespace moray
