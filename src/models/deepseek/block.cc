#include "models/deepseek/block.h"

#include "ops/elementwise.h"

namespace moray::deepseek {

namespace {
// Rows as experts get them: rounded as on the wire, on one machine too.
Activation sent(Exec& exec, TensorClass tensor_class, const Tensor& x_TD, CodeForm form,
                const Tensor& token_R) {
  return Activation(x_TD).kept(exec, tensor_class, form, ScaleFormat::power_of_two).gathered(exec, token_R);
}
}  // namespace

void Block::attention_forward(Exec& exec, const Tensor& x_TD, const LayerContext& context, Saved& saved,
                              RoutingStats& stats) const {
  const Tensor normed = input_layernorm.forward(exec, x_TD, saved.input_layernorm);
  const Tensor attended = self_attn.forward(exec, normed, context, saved.self_attn);
  saved.residual_TD = exec.empty(x_TD.shape());
  add(exec, x_TD, attended, saved.residual_TD);
  saved.u_TD = post_attention_layernorm.forward(exec, saved.residual_TD, saved.post_attention_layernorm);
  if (is_moe)
    gate.forward(exec, saved.u_TD, context.rows, stats.fixed_ids_TK, saved.gate, stats.balance_loss,
                 stats.load);
  if (precision.recompute_norms) saved.gate.x_TD = {};
}

void Block::dispatch_forward(Exec& exec, const LayerContext& context, Saved& saved) const {
  if (!is_moe) return;
  const Tensor& ids_TK = saved.gate.ids_TK;
  const int64_t tokens = ids_TK.extent(0), choices = ids_TK.extent(1);
  saved.plan =
      allocate_dispatch_plan(exec, tokens, choices, experts.gate_proj_EFD.extent(0), context.rows.samples);
  dispatch_plan(exec, ids_TK, saved.plan);
  saved.x = sent(exec, TensorClass::dispatch, saved.u_TD, precision.when_fp8(precision.dispatch),
                 saved.plan.token_R);
}

void Block::experts_forward(Exec& exec, Saved& saved) const {
  if (is_moe) saved.y_RD = experts.forward(exec, saved.x, saved.plan.rows, saved.experts);
  saved.x = {};
  if (has_mlp) saved.mlp_out_TD = mlp.forward(exec, saved.u_TD, saved.mlp);
  saved.u_TD = {};
}

Tensor Block::combine_forward(Exec& exec, Saved& saved) const {
  const Tensor out_TD = exec.empty(saved.residual_TD.shape());
  if (has_mlp)
    add(exec, saved.residual_TD, saved.mlp_out_TD, out_TD);
  else
    out_TD.copy_from(saved.residual_TD);
  if (is_moe)
    combine_rows(exec, saved.y_RD, saved.gate.gates_TK, saved.gate.ids_TK, saved.plan.row_TK,
                 saved.plan.rows.experts / gate.config.n_group, out_TD, /*accumulate=*/true);
  saved.residual_TD = saved.y_RD = saved.mlp_out_TD = {};
  return out_TD;
}

void Block::combine_backward(Exec& exec, const Tensor& dout_TD, Saved& saved, Deferred& deferred) const {
  deferred.dout_TD = dout_TD;
  if (!is_moe) return;
  deferred.dy = sent(exec, TensorClass::dispatch_gradients, dout_TD,
                     precision.when_fp8(precision.dispatch_gradient), saved.plan.token_R);
}

// The norm's output is the input of the router, the shared experts or the dense MLP.
void Block::recompute_mlp_inputs(Exec& exec, Saved& saved) const {
  const Tensor u_TD = post_attention_layernorm.output(exec, saved.post_attention_layernorm);
  if (has_mlp) mlp.keep_input(exec, mlp.gate_proj.input(exec, u_TD), saved.mlp);
  if (is_moe) saved.gate.x_TD = u_TD;
}

void Block::experts_backward(Exec& exec, Saved& saved, Deferred& deferred) const {
  if (precision.recompute_norms) recompute_mlp_inputs(exec, saved);
  if (has_mlp)
    deferred.du_TD = mlp.backward_input(exec, deferred.dout_TD, std::move(saved.mlp), deferred.mlp);
  if (!is_moe) return;
  const Tensor router_gate_R = exec.empty_wide({saved.plan.choice_R.extent(0)});
  gather_values(exec, saved.gate.gates_TK, saved.plan.choice_R, router_gate_R);
  deferred.drouter_gate_R = exec.empty_wide(router_gate_R.shape());
  deferred.dx_RD =
      experts.backward_input(exec, deferred.dy, saved.plan.rows, router_gate_R, deferred.drouter_gate_R,
                             std::move(saved.experts), deferred.experts);
  deferred.expert_rows = saved.plan.rows;
  deferred.dy = {};
}

void Block::dispatch_backward(Exec& exec, Saved& saved, Deferred& deferred) const {
  if (!is_moe) return;
  const bool accumulate = deferred.du_TD.defined();
  if (!accumulate) deferred.du_TD = exec.empty(deferred.dout_TD.shape());
  combine_rows(exec, deferred.dx_RD, {}, saved.gate.ids_TK, saved.plan.row_TK,
               saved.plan.rows.experts / gate.config.n_group, deferred.du_TD, accumulate);
  deferred.dx_RD = {};
}

Tensor Block::attention_backward(Exec& exec, const LayerContext& context, double balance_coefficient,
                                 Saved& saved, Deferred& deferred) const {
  if (is_moe) {
    const Tensor dgates_TK = exec.empty_wide(saved.gate.gates_TK.shape());
    gather_values(exec, deferred.drouter_gate_R, saved.plan.row_TK, dgates_TK);
    gate.backward_input(exec, dgates_TK, context.rows, balance_coefficient, std::move(saved.gate),
                        deferred.gate, deferred.du_TD);
    deferred.drouter_gate_R = {};
    saved.plan = {};
  }
  // The gradient of the residual stream after attention: straight through, plus through norm and MLP.
  const Tensor dresidual_TD = exec.empty(deferred.dout_TD.shape());
  dresidual_TD.copy_from(deferred.dout_TD);
  post_attention_layernorm.backward_input(exec, deferred.du_TD, std::move(saved.post_attention_layernorm),
                                          deferred.post_attention_layernorm, dresidual_TD);
  deferred.dout_TD = deferred.du_TD = {};
  if (precision.recompute_norms)
    self_attn.keep_input(
        exec, self_attn.kv_a_proj_with_mqa.input(exec, input_layernorm.output(exec, saved.input_layernorm)),
        saved.self_attn);
  const Tensor dnormed =
      self_attn.backward_input(exec, dresidual_TD, context, std::move(saved.self_attn), deferred.self_attn);
  const Tensor dx_TD = exec.empty(dresidual_TD.shape());
  dx_TD.copy_from(dresidual_TD);
  input_layernorm.backward_input(exec, dnormed, std::move(saved.input_layernorm), deferred.input_layernorm,
                                 dx_TD);
  return dx_TD;
}

void Block::experts_backward_weight(Exec& exec, const LayerContext& context, Deferred& deferred,
                                    Block& gradient) const {
  if (has_mlp) mlp.backward_weight(exec, std::move(deferred.mlp), context.rows, gradient.mlp);
  if (is_moe)
    experts.backward_weight(exec, std::move(deferred.experts), deferred.expert_rows, gradient.experts);
}

void Block::attention_backward_weight(Exec& exec, const LayerContext& context, Deferred& deferred,
                                      Block& gradient) const {
  if (is_moe) gate.backward_weight(exec, std::move(deferred.gate), context.rows, gradient.gate);
  post_attention_layernorm.backward_weight(exec, std::move(deferred.post_attention_layernorm), context.rows,
                                           gradient.post_attention_layernorm);
  self_attn.backward_weight(exec, std::move(deferred.self_attn), context.rows, gradient.self_attn);
  input_layernorm.backward_weight(exec, std::move(deferred.input_layernorm), context.rows,
                                  gradient.input_layernorm);
}

Tensor Block::forward(Exec& exec, const Tensor& x_TD, const LayerContext& context, Saved& saved,
                      RoutingStats& stats) const {
  attention_forward(exec, x_TD, context, saved, stats);
  dispatch_forward(exec, context, saved);
  experts_forward(exec, saved);
  return combine_forward(exec, saved);
}

Tensor Block::backward_input(Exec& exec, const Tensor& dout_TD, const LayerContext& context,
                             double balance_coefficient, Saved&& saved, Deferred& deferred) const {
  combine_backward(exec, dout_TD, saved, deferred);
  experts_backward(exec, saved, deferred);
  dispatch_backward(exec, saved, deferred);
  return attention_backward(exec, context, balance_coefficient, saved, deferred);
}

void Block::backward_weight(Exec& exec, const LayerContext& context, Deferred&& deferred,
                            Block& gradient) const {
  experts_backward_weight(exec, context, deferred, gradient);
  attention_backward_weight(exec, context, deferred, gradient);
}

void Block::visit(const std::string& prefix, const ParameterVisitor& visitor) {
  input_layernorm.visit(prefix + "input_layernorm.", visitor);
  self_attn.visit(prefix + "self_attn.", visitor);
  post_attention_layernorm.visit(prefix + "post_attention_layernorm.", visitor);
  if (is_moe) {
    gate.visit(prefix + "mlp.gate.", visitor);
    experts.visit(prefix + "mlp.experts.", visitor);
    if (has_mlp) mlp.visit(prefix + "mlp.shared_experts.", visitor);
  } else {
    mlp.visit(prefix + "mlp.", visitor);
  }
}

void Block::visit_products(const ProductWeightVisitor& visitor) {
  self_attn.visit_products(visitor);
  if (has_mlp) mlp.visit_products(visitor);
  if (is_moe) experts.visit_products(visitor);
}

void Block::set_precision(const Precision& value) {
  precision = value;
  experts.precision = value.of(Part::experts);
  self_attn.set_precision(value.of(Part::self_attn));
  mlp.set_precision(value.of(is_moe ? Part::shared_experts : Part::mlp));
}

Block make_block(const ModelConfig& config, bool moe) {
  // The reference code gives the norms of the two latents 1e-6 whatever rms_norm_eps says.
  constexpr double kLatentNormEps = 1e-6;
  Block block;
  block.is_moe = moe;
  block.has_mlp = !moe || config.n_shared_experts > 0;
  block.input_layernorm.eps = block.post_attention_layernorm.eps = config.rms_norm_eps;
  block.self_attn.shape = config.mla();
  block.self_attn.has_q_lora = config.q_lora_rank > 0;
  block.self_attn.q_a_layernorm.eps = block.self_attn.kv_a_layernorm.eps = kLatentNormEps;
  block.gate.config = config.router();
  block.gate.has_bias = config.is_v3();
  return block;
}

}  // namespace moray::deepseek
