// One head at a time. T tokens, H heads, N qk_nope_head_dim, R qk_rope_head_dim, C kv_lora_rank, P positions.
#include "ops/mla_decode.h"

#include "backend/reference/dispatch.h"
#include "backend/reference/kernels.h"
#include "backend/reference/sums.h"

namespace moray::reference {
namespace {

void absorb(Exec&, const Tensor& q, const StoredWeight& kv_b_proj, const MlaShape& shape,
            const Tensor& q_latent) {
  for_real_type(q, [&]<class T>(T) {
    const int64_t nope = shape.qk_nope_head_dim, latent = kv_b_proj.inputs();
    std::vector<T> keys(static_cast<size_t>(nope * latent));  // [N, C] of one head
    for (int64_t h = 0; h < shape.heads; ++h) {
      const StoredWeight w =
          kv_b_proj.rows(h * (nope + shape.v_head_dim), (h + 1) * (nope + shape.v_head_dim));
      for (int64_t n = 0; n < nope; ++n)
        for (int64_t c = 0; c < latent; ++c)
          keys[static_cast<size_t>(n * latent + c)] = weight_element<T>(w, n, c);
      for (int64_t t = 0; t < q.extent(0); ++t)
        for (int64_t c = 0; c < latent; ++c)
          q_latent.data<T>()[(t * shape.heads + h) * latent + c] =
              add_products(T{0}, q.data<T>() + t * shape.q_width() + h * (nope + shape.qk_rope_head_dim), 1,
                           keys.data() + c, latent, nope);
    }
  });
}

// Latents of any form as T.
template <class T>
std::vector<T> widened_latents(const CachedLatents& past) {
  const int64_t latent = past.latents_PC.extent(1);
  if (past.latents_PC.dtype() != DType::f8_e4m3) {
    Elements<T> elements(past.latents_PC);
    return {elements.data(), elements.data() + past.latents_PC.elements()};
  }
  std::vector<T> latents;
  for (int64_t i = 0; i < past.latents_PC.elements(); ++i) {
    const float scale =
        past.scales_PG.data<float>()[i / latent * past.scales_PG.extent(1) + i % latent / kTile];
    latents.push_back(static_cast<T>(to_float(past.latents_PC.data<e4m3>()[i]) * scale));
  }
  return latents;
}

void attend(Exec&, const Tensor& q, const Tensor& q_latent, const CachedLatents& past, const MlaShape& shape,
            const Tensor& o_latent) {
  for_real_type(q, [&]<class T>(T) {
    const int64_t positions = past.latents_PC.extent(0), latent = past.latents_PC.extent(1);
    const int64_t nope = shape.qk_nope_head_dim, rope = shape.qk_rope_head_dim, width = latent + rope;
    const std::vector<T> latents = widened_latents<T>(past);
    Elements<T> ropes(past.k_rope_PR);
    std::vector<T> keys(static_cast<size_t>(positions * width)), query(static_cast<size_t>(width));
    for (int64_t p = 0; p < positions; ++p) {
      std::copy_n(latents.data() + p * latent, latent, keys.data() + p * width);
      std::copy_n(ropes.data() + p * rope, rope, keys.data() + p * width + latent);
    }
    std::vector<T> probability(static_cast<size_t>(positions));
    for (int64_t h = 0; h < shape.heads; ++h) {
      std::copy_n(q_latent.data<T>() + h * latent, latent, query.data());
      std::copy_n(q.data<T>() + h * (nope + rope) + nope, rope, query.data() + latent);
      for (int64_t p = 0; p < positions; ++p)
        probability[static_cast<size_t>(p)] =
            add_products(T{0}, query.data(), 1, keys.data() + p * width, 1, width) *
            static_cast<T>(shape.softmax_scale);
      const T most = *std::max_element(probability.begin(), probability.end());
      T sum = 0;
      for (T& x : probability) sum += x = std::exp(x - most);
      for (int64_t c = 0; c < latent; ++c)
        o_latent.data<T>()[h * latent + c] =
            add_products(T{0}, probability.data(), 1, keys.data() + c, width, positions) / sum;
    }
  });
}

}  // namespace

MlaDecodeKernels mla_decode_kernels() {
  return {absorb, attend};
}

}  // namespace moray::reference
