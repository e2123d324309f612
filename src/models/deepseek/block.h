// A transformer block, cut where V3 cuts it: attention, dispatch, experts, combine (report §3.2). Backward
// mirrors the phases, with the gradients of inputs (B) and of weights (W) apart. Whoever runs a block (one
// device in order, a pipeline overlapping two chunks, the planner pricing them) uses these phases.
//
// T rows, D hidden, R expert rows, K experts a token.
#pragma once

#include "models/deepseek/config.h"
#include "nn/experts.h"
#include "nn/mla.h"
#include "nn/mlp.h"
#include "nn/router.h"

namespace moray::deepseek {

// What the routers report beside their results, for one MoE layer.
struct RoutingStats {
  double balance_loss = 0;    // Σ over samples of Σ_i f_i P_i
  std::vector<int64_t> load;  // tokens each expert got
  Tensor fixed_ids_TK;        // when defined: route so (gradient checks, replay); otherwise choose
};

struct Block {
  bool is_moe = false;
  RmsNorm input_layernorm, post_attention_layernorm;
  Mla self_attn;
  Mlp mlp;  // the dense MLP, or the shared experts
  bool has_mlp = true;
  Router gate;
  Experts experts;
  Precision precision = {};

  struct Saved {
    RmsNorm::Saved input_layernorm, post_attention_layernorm;
    Mla::Saved self_attn;
    Mlp::Saved mlp;
    Router::Saved gate;
    Experts::Saved experts;
    DispatchPlan plan;
    // Between phases of one direction; empty outside them.
    Tensor residual_TD, u_TD, y_RD, mlp_out_TD;
    Activation x;  // [R, D]
  };
  struct Deferred {
    RmsNorm::Deferred input_layernorm, post_attention_layernorm;
    Mla::Deferred self_attn;
    Mlp::Deferred mlp;
    Router::Deferred gate;
    Experts::Deferred experts;
    ExpertRows expert_rows;
    // Between phases of the backward direction; empty outside them.
    Tensor dout_TD, dx_RD, du_TD, drouter_gate_R;
    Activation dy;  // [R, D]
  };

  // F. attention: norm, MLA, residual, norm, router. dispatch: rows to experts. experts: routed and shared
  // MLPs. combine: weighted sum of the experts' rows + shared + residual; returns the block's output.
  void attention_forward(Exec&, const Tensor& x_TD, const LayerContext&, Saved&, RoutingStats&) const;
  void dispatch_forward(Exec&, const LayerContext&, Saved&) const;
  void experts_forward(Exec&, Saved&) const;
  Tensor combine_forward(Exec&, Saved&) const;

  // B, in mirrored order. attention_backward returns dx_TD.
  void combine_backward(Exec&, const Tensor& dout_TD, Saved&, Deferred&) const;
  void experts_backward(Exec&, Saved&, Deferred&) const;
  void dispatch_backward(Exec&, Saved&, Deferred&) const;
  Tensor attention_backward(Exec&, const LayerContext&, double balance_coefficient, Saved&, Deferred&) const;

  // W, in two parts: what the experts phase left, and what the attention phase left.
  void experts_backward_weight(Exec&, const LayerContext&, Deferred&, Block& gradient) const;
  void attention_backward_weight(Exec&, const LayerContext&, Deferred&, Block& gradient) const;

  // All phases in order.
  Tensor forward(Exec&, const Tensor& x_TD, const LayerContext&, Saved&, RoutingStats&) const;
  Tensor backward_input(Exec&, const Tensor& dout_TD, const LayerContext&, double balance_coefficient,
                        Saved&&, Deferred&) const;
  void backward_weight(Exec&, const LayerContext&, Deferred&&, Block& gradient) const;

  void visit(const std::string& prefix, const ParameterVisitor&);
  void visit_products(const ProductWeightVisitor&);
  void set_precision(const Precision&);

 private:
  void recompute_mlp_inputs(Exec&, Saved&) const;
};

// A block whose tensors are undefined but whose shapes and switches are set; `moe`: with routed experts.
Block make_block(const ModelConfig&, bool moe);

}  // namespace moray::deepseek
