#include "nn/mla.h"

#include "ops/elementwise.h"

namespace moray {

RopeLayout Mla::q_rope_layout() const {
  return {shape.heads, shape.qk_nope_head_dim + shape.qk_rope_head_dim};
}
RopeLayout Mla::k_rope_layout() const {
  return {1, shape.qk_rope_head_dim};
}

std::vector<Linear*> Mla::projections() {
  if (has_q_lora) return {&q_a_proj, &q_b_proj, &kv_a_proj_with_mqa, &kv_b_proj, &o_proj};
  return {&q_proj, &kv_a_proj_with_mqa, &kv_b_proj, &o_proj};
}

// The rotated queries of all heads, from the normed latent or, without one, from x.
Tensor Mla::queries(Exec& exec, const Activation& from, const LayerContext& context) const {
  const Tensor q = (has_q_lora ? q_b_proj : q_proj).product(exec, from);
  rope_apply(exec, q, q_rope_layout(), context.rope.cos_PJ, context.rope.sin_PJ,
             context.rows.rows_per_sample);
  return q;
}

Tensor Mla::forward(Exec& exec, const Activation& x, const LayerContext& context, Saved& saved) const {
  const Activation ready = kv_a_proj_with_mqa.input(exec, x);
  if (!precision.recompute_norms) keep_input(exec, ready, saved);
  Activation q_from = ready;
  if (has_q_lora) {
    const Tensor c_q = q_a_proj.product(exec, ready);
    q_from = q_b_proj.input(exec, q_a_layernorm.forward(exec, c_q, saved.q_a_layernorm));
    if (!precision.recompute_norms) saved.q_b_proj.x = q_b_proj.kept_input(exec, q_from);
  }
  saved.q = queries(exec, q_from, context);

  const Tensor latent_and_key = kv_a_proj_with_mqa.product(exec, ready);
  const int64_t tokens = latent_and_key.extent(0);
  const Tensor c_kv = exec.empty({tokens, kv_a_layernorm.weight_D.extent(0)});
  saved.k_rope = exec.empty({tokens, shape.qk_rope_head_dim});
  split_columns(exec, latent_and_key, c_kv, saved.k_rope);
  rope_apply(exec, saved.k_rope, k_rope_layout(), context.rope.cos_PJ, context.rope.sin_PJ,
             context.rows.rows_per_sample);
  const Activation kv_from = kv_b_proj.input(exec, kv_a_layernorm.forward(exec, c_kv, saved.kv_a_layernorm));
  if (!precision.recompute_norms) saved.kv_b_proj.x = kv_b_proj.kept_input(exec, kv_from);
  saved.kv = kv_b_proj.product(exec, kv_from);

  const Tensor o = exec.empty({tokens, shape.o_width()});
  saved.lse_HT = exec.empty_wide({shape.heads, tokens});
  mla_attention_forward(exec, saved.q, saved.kv, saved.k_rope, shape, context.mask, o, saved.lse_HT);
  saved.o = Activation(o).kept(exec, TensorClass::attention_output,
                               precision.when_fp8(precision.attention_output), ScaleFormat::power_of_two);
  if (precision.recompute_mla_up) {
    saved.kv = {};
    if (has_q_lora) saved.q = {};
  }
  return o_proj.product(exec, o);
}

void Mla::keep_input(Exec& exec, const Activation& x, Saved& saved) const {
  saved.kv_a_proj.x = kv_a_proj_with_mqa.kept_input(exec, x);
  (has_q_lora ? saved.q_a_proj : saved.q_proj).x = saved.kv_a_proj.x;
}

// What forward() did not keep, to the bit.
void Mla::recompute(Exec& exec, const LayerContext& context, Saved& saved) const {
  if (precision.recompute_norms) {
    const auto kept = [&](const Linear& linear, const RmsNorm& norm, const RmsNorm::Saved& norm_saved) {
      return linear.kept_input(exec, linear.input(exec, norm.output(exec, norm_saved)));
    };
    if (has_q_lora) saved.q_b_proj.x = kept(q_b_proj, q_a_layernorm, saved.q_a_layernorm);
    saved.kv_b_proj.x = kept(kv_b_proj, kv_a_layernorm, saved.kv_a_layernorm);
  }
  if (precision.recompute_mla_up) {
    if (has_q_lora) saved.q = queries(exec, saved.q_b_proj.x, context);
    saved.kv = kv_b_proj.product(exec, saved.kv_b_proj.x);
  }
}

Tensor Mla::backward_input(Exec& exec, const Tensor& dy_TD, const LayerContext& context, Saved&& saved,
                           Deferred& deferred) const {
  const int64_t tokens = dy_TD.extent(0), positions = context.rows.rows_per_sample;
  recompute(exec, context, saved);
  const Tensor d_o = o_proj.backward_input(exec, dy_TD, {saved.o}, deferred.o_proj);
  const Tensor dq = exec.empty(saved.q.shape()), dkv = exec.empty(saved.kv.shape());
  const Tensor dk_rope = exec.empty(saved.k_rope.shape());
  mla_attention_backward(exec, d_o, saved.q, saved.kv, saved.k_rope, saved.o.numbers(exec), saved.lse_HT,
                         shape, context.mask, dq, dkv, dk_rope);
  rope_apply(exec, dq, q_rope_layout(), context.rope.cos_PJ, context.rope.sin_PJ, positions,
             /*inverse=*/true);
  rope_apply(exec, dk_rope, k_rope_layout(), context.rope.cos_PJ, context.rope.sin_PJ, positions,
             /*inverse=*/true);

  const Tensor dlatent = kv_b_proj.backward_input(exec, dkv, std::move(saved.kv_b_proj), deferred.kv_b_proj);
  const Tensor dc_kv =
      kv_a_layernorm.backward_input(exec, dlatent, std::move(saved.kv_a_layernorm), deferred.kv_a_layernorm);
  const Tensor dlatent_and_key = exec.empty({tokens, dc_kv.extent(1) + shape.qk_rope_head_dim});
  concat_columns(exec, dc_kv, dk_rope, dlatent_and_key);
  Tensor dx_TD = kv_a_proj_with_mqa.backward_input(exec, dlatent_and_key, std::move(saved.kv_a_proj),
                                                   deferred.kv_a_proj);

  if (has_q_lora) {
    const Tensor dc_q_normed =
        q_b_proj.backward_input(exec, dq, std::move(saved.q_b_proj), deferred.q_b_proj);
    const Tensor dc_q = q_a_layernorm.backward_input(exec, dc_q_normed, std::move(saved.q_a_layernorm),
                                                     deferred.q_a_layernorm);
    dx_TD = q_a_proj.backward_input(exec, dc_q, std::move(saved.q_a_proj), deferred.q_a_proj, dx_TD);
  } else {
    dx_TD = q_proj.backward_input(exec, dq, std::move(saved.q_proj), deferred.q_proj, dx_TD);
  }
  saved = {};
  return dx_TD;
}

void Mla::backward_weight(Exec& exec, Deferred&& deferred, const SampleRows& rows, Mla& gradient) const {
  const Linear& reads_x = has_q_lora ? q_a_proj : q_proj;
  if (reads_x.fp8())  // one x for both
    deferred.kv_a_proj.x = (has_q_lora ? deferred.q_a_proj : deferred.q_proj).x = Activation(
        token_tiles(exec, TensorClass::linear_inputs, deferred.kv_a_proj.x, rows, precision.scales));
  if (has_q_lora) {
    q_a_proj.backward_weight(exec, std::move(deferred.q_a_proj), rows, gradient.q_a_proj);
    q_a_layernorm.backward_weight(exec, std::move(deferred.q_a_layernorm), rows, gradient.q_a_layernorm);
    q_b_proj.backward_weight(exec, std::move(deferred.q_b_proj), rows, gradient.q_b_proj);
  } else {
    q_proj.backward_weight(exec, std::move(deferred.q_proj), rows, gradient.q_proj);
  }
  kv_a_proj_with_mqa.backward_weight(exec, std::move(deferred.kv_a_proj), rows, gradient.kv_a_proj_with_mqa);
  kv_a_layernorm.backward_weight(exec, std::move(deferred.kv_a_layernorm), rows, gradient.kv_a_layernorm);
  kv_b_proj.backward_weight(exec, std::move(deferred.kv_b_proj), rows, gradient.kv_b_proj);
  o_proj.backward_weight(exec, std::move(deferred.o_proj), rows, gradient.o_proj);
}

void Mla::visit(const std::string& prefix, const ParameterVisitor& visitor) {
  if (has_q_lora) {
    q_a_proj.visit(prefix + "q_a_proj.", visitor);
    q_a_layernorm.visit(prefix + "q_a_layernorm.", visitor);
    q_b_proj.visit(prefix + "q_b_proj.", visitor);
  } else {
    q_proj.visit(prefix + "q_proj.", visitor);
  }
  kv_a_proj_with_mqa.visit(prefix + "kv_a_proj_with_mqa.", visitor);
  kv_a_layernorm.visit(prefix + "kv_a_layernorm.", visitor);
  kv_b_proj.visit(prefix + "kv_b_proj.", visitor);
  o_proj.visit(prefix + "o_proj.", visitor);
}

void Mla::visit_products(const ProductWeightVisitor& visitor) {
  for (Linear* linear : projections()) linear->visit_products(visitor);
}

void Mla::set_precision(const Precision& value) {
  precision = value;
  for (Linear* linear : projections()) linear->precision = value;
}

}  // namespace moray
