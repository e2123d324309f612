#include "serve/forward.h"

#include <algorithm>

#include "ops/elementwise.h"
#include "ops/mla_decode.h"
#include "ops/permute.h"
#include "ops/rope.h"
#include "ops/swiglu.h"

namespace moray {

namespace {

Tensor normed(Exec& exec, const RmsNorm& norm, const Tensor& x_TD) {
  RmsNorm::Saved saved;
  return norm.forward(exec, x_TD, saved);
}

Tensor outputs_of(const Exec& exec, const Tensor& x, const Linear& layer) {
  return exec.empty({x.extent(0), layer.weight_OI.extent(0)});
}

Tensor product(Exec& exec, const Tensor& x, const Linear& layer, const Linear& scales) {
  const Tensor y = outputs_of(exec, x, layer);
  weight_matmul(exec, x, stored_weight(layer, scales), y);
  return y;
}

// Queries with their rotary parts turned; latents and rotary keys of the tokens are in the cache afterwards.
Tensor project(Exec& exec, const Mla& mla, const Mla& scales, int64_t layer, const Tensor& x_TD,
               const SequenceRows& rows) {
  const int64_t tokens = x_TD.extent(0), rope = mla.shape.qk_rope_head_dim;
  const Linear &first = mla.has_q_lora ? mla.q_a_proj : mla.q_proj,
               &first_scales = mla.has_q_lora ? scales.q_a_proj : scales.q_proj;
  Tensor q = outputs_of(exec, x_TD, first);
  const Tensor latent_and_key = outputs_of(exec, x_TD, mla.kv_a_proj_with_mqa);
  const std::array<WeightProduct, 2> products = {
      WeightProduct{x_TD, stored_weight(first, first_scales), q},
      WeightProduct{x_TD, stored_weight(mla.kv_a_proj_with_mqa, scales.kv_a_proj_with_mqa), latent_and_key}};
  weight_matmul(exec, products);
  if (mla.has_q_lora) q = product(exec, normed(exec, mla.q_a_layernorm, q), mla.q_b_proj, scales.q_b_proj);

  const Tensor cos = rows.rope.cos_PJ.rows(rows.first, rows.first + tokens);
  const Tensor sin = rows.rope.sin_PJ.rows(rows.first, rows.first + tokens);
  rope_apply(exec, q, {mla.shape.heads, mla.shape.qk_nope_head_dim + rope}, cos, sin, tokens);
  const Tensor c_kv = exec.empty({tokens, latent_and_key.extent(1) - rope}),
               k_rope = exec.empty({tokens, rope});
  split_columns(exec, latent_and_key, c_kv, k_rope);
  rope_apply(exec, k_rope, {1, rope}, cos, sin, tokens);
  rows.cache.store(exec, layer, rows.first, normed(exec, mla.kv_a_layernorm, c_kv), k_rope);
  return q;
}

// Columns [from_column, ..) of `from` to columns [to_column, ..) of `to`, `count` of them.
void copy_columns(const Exec& exec, const Tensor& from, int64_t from_column, const Tensor& to,
                  int64_t to_column, int64_t count) {
  constexpr int64_t kRowsAtOnce = 64;
  exec.pool->for_ranges(from.extent(0), kRowsAtOnce, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row)
      std::copy_n(from.data<float>() + row * from.extent(1) + from_column, count,
                  to.data<float>() + row * to.extent(1) + to_column);
  });
}

// Heads [first, first + part.heads) of a chunk's attention: their queries from q, their results into o. Keys
// and values lie in a buffer for all the cache's positions, so that chunks that follow take the same memory.
void attend_heads(Exec& exec, const Tensor& q, const CachedLatents& past, const StoredWeight& kv_b,
                  int64_t first, const MlaShape& part, const SequenceRows& rows, const Tensor& o) {
  const int64_t tokens = q.extent(0), positions = rows.first + tokens;
  const int64_t key = part.qk_nope_head_dim + part.qk_rope_head_dim, value = part.v_head_dim;
  const int64_t kv_rows = part.qk_nope_head_dim + value;
  const Tensor kv = exec.empty({rows.cache.capacity(), part.kv_width()}).rows(0, positions);
  const StoredWeight of_heads = kv_b.rows(first * kv_rows, (first + part.heads) * kv_rows);
  // What a product works in is as large as its rows: of all positions at once, each chunk would want more.
  constexpr int64_t kRowsAtOnce = 2048;
  for (int64_t begin = 0; begin < positions; begin += kRowsAtOnce) {
    const int64_t end = std::min(begin + kRowsAtOnce, positions);
    weight_matmul(exec, past.latents_PC.rows(begin, end), of_heads, kv.rows(begin, end));
  }
  const bool all = part.q_width() == q.extent(1);
  const Tensor of_q = all ? q : exec.empty({tokens, part.q_width()});
  const Tensor of_o = all ? o : exec.empty({tokens, part.o_width()});
  const Tensor lse = exec.empty({part.heads, tokens});
  if (!all) copy_columns(exec, q, first * key, of_q, 0, part.q_width());
  mla_attention_forward(exec, of_q, kv, past.k_rope_PR, part, {1, positions, {}, rows.first}, of_o, lse);
  if (!all) copy_columns(exec, of_o, 0, o, first * value, part.o_width());
}

Tensor attend_expanded(Exec& exec, const Mla& mla, const Mla& scales, int64_t layer, const Tensor& q,
                       const SequenceRows& rows) {
  const int64_t heads = mla.shape.heads;
  const int64_t at_once = expanded_heads_at_once(mla.shape, rows.cache.capacity(), rows.expanded_bytes);
  const CachedLatents past = rows.cache.widened(exec, layer, rows.first + q.extent(0));
  const Tensor o = exec.empty({q.extent(0), mla.shape.o_width()});
  for (int64_t first = 0; first < heads; first += at_once) {
    MlaShape part = mla.shape;
    part.heads = std::min(at_once, heads - first);
    attend_heads(exec, q, past, stored_weight(mla.kv_b_proj, scales.kv_b_proj), first, part, rows, o);
  }
  return o;
}

// One token at a time: each has its own past.
Tensor attend_absorbed(Exec& exec, const Mla& mla, const Mla& scales, int64_t layer, const Tensor& q,
                       const SequenceRows& rows) {
  const MlaShape& shape = mla.shape;
  const StoredWeight kv_b = stored_weight(mla.kv_b_proj, scales.kv_b_proj);
  const int64_t tokens = q.extent(0), latent = kv_b.inputs(), value = shape.v_head_dim;
  const Tensor q_latent = exec.empty({tokens, shape.heads * latent}),
               o = exec.empty({tokens, shape.o_width()});
  mla_absorb(exec, q, kv_b, shape, q_latent);
  const Tensor o_latent = exec.empty(q_latent.shape());
  std::vector<WeightProduct> products;
  for (int64_t t = 0; t < tokens; ++t) {
    const CachedLatents past = rows.cache.rows(layer, rows.first + t + 1);
    const Tensor out = o_latent.rows(t, t + 1);
    mla_attend(exec, q.rows(t, t + 1), q_latent.rows(t, t + 1), past, shape, out);
    const Tensor of_heads = out.reshape({shape.heads, latent}),
                 o_heads = o.row(t).reshape({shape.heads, value});
    for (int64_t h = 0; h < shape.heads; ++h) {
      const int64_t first = h * (shape.qk_nope_head_dim + value) + shape.qk_nope_head_dim;
      products.push_back({of_heads.rows(h, h + 1), kv_b.rows(first, first + value), o_heads.rows(h, h + 1)});
    }
  }
  weight_matmul(exec, products);
  return o;
}

// What an MLP, or one expert, is in two rounds of products: gate and up, then down.
struct MlpRows {
  Tensor x_TD, gate_TF, up_TF, h_TF, y_TD;
  StoredWeight gate, up, down;
};

MlpRows mlp_rows(const Exec& exec, const Mlp& mlp, const Mlp& scales, const Tensor& x_TD) {
  const Shape wide{x_TD.extent(0), mlp.gate_proj.weight_OI.extent(0)};
  return {x_TD,
          exec.empty(wide),
          exec.empty(wide),
          exec.empty(wide),
          exec.empty(x_TD.shape()),
          stored_weight(mlp.gate_proj, scales.gate_proj),
          stored_weight(mlp.up_proj, scales.up_proj),
          stored_weight(mlp.down_proj, scales.down_proj)};
}

StoredWeight expert_weights(const Tensor& values, const Tensor& scales) {
  return {values, scales, 0};
}

// Router, dispatch, and the products of experts and shared experts side by side.
struct ExpertPass {
  Tensor ids_TK, gates_TK;
  DispatchPlan plan;
  Tensor x_RD, gate_RF, up_RF, h_RF, y_RD;
};

ExpertPass dispatch(Exec& exec, const deepseek::Block& block, const Tensor& u_TD) {
  const int64_t tokens = u_TD.extent(0), choices = block.gate.config.num_experts_per_tok;
  const int64_t experts = block.experts.gate_proj_EFD.extent(0);
  ExpertPass pass;
  const Tensor logits = exec.empty({tokens, experts}), scores = exec.empty({tokens, experts});
  weight_matmul(exec, u_TD, {block.gate.weight_ED, {}, 0}, logits);
  pass.ids_TK = exec.empty_i32({tokens, choices});
  pass.gates_TK = exec.empty({tokens, choices});
  route_forward(exec, logits, block.gate.bias_E, block.gate.config, false, scores, pass.ids_TK,
                pass.gates_TK);
  pass.plan = allocate_dispatch_plan(exec, tokens, choices, experts, 1);
  dispatch_plan(exec, pass.ids_TK, pass.plan);
  pass.x_RD = exec.empty({tokens * choices, u_TD.extent(1)});
  gather_rows(exec, u_TD, pass.plan.token_R, pass.x_RD);
  const Shape wide{tokens * choices, block.experts.gate_proj_EFD.extent(1)};
  pass.gate_RF = exec.empty(wide);
  pass.up_RF = exec.empty(wide);
  pass.h_RF = exec.empty(wide);
  pass.y_RD = exec.empty(pass.x_RD.shape());
  return pass;
}

template <class Body>
void for_experts_with_rows(const ExpertRows& rows, const Body& body) {
  for (int64_t e = 0; e < rows.experts; ++e)
    if (rows.begin(e) < rows.end(e)) body(e, rows.begin(e), rows.end(e));
}

Tensor feed_forward(Exec& exec, const deepseek::Block& block, const deepseek::Block& scales,
                    const Tensor& residual_TD, const Tensor& u_TD, ChosenExperts* chosen) {
  ExpertPass pass;
  MlpRows mlp;
  std::vector<WeightProduct> wide, narrow;
  if (block.has_mlp) {
    mlp = mlp_rows(exec, block.mlp, scales.mlp, u_TD);
    wide.push_back({u_TD, mlp.gate, mlp.gate_TF});
    wide.push_back({u_TD, mlp.up, mlp.up_TF});
    narrow.push_back({mlp.h_TF, mlp.down, mlp.y_TD});
  }
  if (block.is_moe) {
    pass = dispatch(exec, block, u_TD);
    if (chosen != nullptr) chosen->push_back(pass.ids_TK);
    const StoredWeight gate = expert_weights(block.experts.gate_proj_EFD, scales.experts.gate_proj_EFD);
    const StoredWeight up = expert_weights(block.experts.up_proj_EFD, scales.experts.up_proj_EFD);
    const StoredWeight down = expert_weights(block.experts.down_proj_EDF, scales.experts.down_proj_EDF);
    for_experts_with_rows(pass.plan.rows, [&](int64_t e, int64_t begin, int64_t end) {
      wide.push_back({pass.x_RD.rows(begin, end), gate.matrix(e), pass.gate_RF.rows(begin, end)});
      wide.push_back({pass.x_RD.rows(begin, end), up.matrix(e), pass.up_RF.rows(begin, end)});
      narrow.push_back({pass.h_RF.rows(begin, end), down.matrix(e), pass.y_RD.rows(begin, end)});
    });
  }
  weight_matmul(exec, wide);
  if (block.has_mlp) swiglu_forward(exec, mlp.gate_TF, mlp.up_TF, mlp.h_TF);
  if (block.is_moe) swiglu_forward(exec, pass.gate_RF, pass.up_RF, pass.h_RF);
  weight_matmul(exec, narrow);

  const Tensor out_TD = exec.empty(residual_TD.shape());
  if (block.has_mlp)
    add(exec, residual_TD, mlp.y_TD, out_TD);
  else
    out_TD.copy_from(residual_TD);
  if (block.is_moe)
    combine_rows(exec, pass.y_RD, pass.gates_TK, pass.ids_TK, pass.plan.row_TK,
                 pass.plan.rows.experts / block.gate.config.n_group, out_TD, /*accumulate=*/true);
  return out_TD;
}

}  // namespace

int64_t expanded_heads_at_once(const MlaShape& shape, int64_t positions, int64_t expanded_bytes) {
  const int64_t head_bytes = positions * (shape.qk_nope_head_dim + shape.v_head_dim) * int64_t{sizeof(float)};
  return std::clamp<int64_t>(expanded_bytes / head_bytes, 1, shape.heads);
}

Tensor block_forward(Exec& exec, const deepseek::Block& block, const deepseek::Block& scales,
                     int64_t cache_layer, const Tensor& x_TD, const SequenceRows& rows,
                     ChosenExperts* chosen) {
  const Mla &mla = block.self_attn, &mla_scales = scales.self_attn;
  const Tensor q =
      project(exec, mla, mla_scales, cache_layer, normed(exec, block.input_layernorm, x_TD), rows);
  const Tensor o = rows.form == AttentionForm::expanded
                       ? attend_expanded(exec, mla, mla_scales, cache_layer, q, rows)
                       : attend_absorbed(exec, mla, mla_scales, cache_layer, q, rows);
  const Tensor attended = product(exec, o, mla.o_proj, mla_scales.o_proj);
  const Tensor residual_TD = exec.empty(x_TD.shape());
  add(exec, x_TD, attended, residual_TD);
  return feed_forward(exec, block, scales, residual_TD,
                      normed(exec, block.post_attention_layernorm, residual_TD), chosen);
}

Tensor mtp_forward(Exec& exec, const deepseek::MtpModule& module, const deepseek::MtpModule& scales,
                   int64_t cache_layer, const Tensor& h_TD, const Tensor& embedding_TD,
                   const SequenceRows& rows) {
  const Tensor both = exec.empty({h_TD.extent(0), 2 * h_TD.extent(1)});
  concat_columns(exec, normed(exec, module.enorm, embedding_TD), normed(exec, module.hnorm, h_TD), both);
  const Tensor x_TD = product(exec, both, module.eh_proj, scales.eh_proj);
  return normed(exec, module.shared_head_norm,
                block_forward(exec, module.block, scales.block, cache_layer, x_TD, rows));
}

Tensor embed(Exec& exec, const Tensor& table_VD, std::span<const int32_t> ids) {
  const int64_t width = table_VD.extent(1);
  const Tensor x_TD = exec.empty({static_cast<int64_t>(ids.size()), width});
  for (size_t t = 0; t < ids.size(); ++t) {
    if (ids[t] < 0 || ids[t] >= table_VD.extent(0))
      fail("token {} at position {} is outside the vocabulary of {}", ids[t], t, table_VD.extent(0));
    float* to = x_TD.data<float>() + static_cast<int64_t>(t) * width;
    const int64_t at = ids[t] * width;
    if (table_VD.dtype() == DType::f32)
      std::copy_n(table_VD.data<float>() + at, width, to);
    else
      std::transform(table_VD.data<bf16>() + at, table_VD.data<bf16>() + at + width, to,
                     [](bf16 value) { return to_float(value); });
  }
  return x_TD;
}

}  // namespace moray
