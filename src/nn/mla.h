// Multi-head latent attention (report §2.1.1), expanded form: keys and values are rebuilt from a small
// latent.
//
// T rows, D hidden, H heads. The latents: c_q (q_lora_rank) and c_kv (kv_lora_rank), both normalised; with
// c_kv goes one rotary key for all heads. Without q_lora_rank (V2-Lite) queries come straight from the hidden
// state.
#pragma once

#include "nn/linear.h"
#include "nn/rms_norm.h"
#include "nn/rope_table.h"
#include "ops/mla_attention.h"
#include "ops/rope.h"

namespace moray {

// What a micro-batch is, for every layer alike.
struct LayerContext {
  SampleRows rows;
  AttentionMask mask;
  RopeTable rope;
};

struct Mla {
  MlaShape shape;
  bool has_q_lora = true;
  Linear q_proj;              // without q_lora_rank
  Linear q_a_proj, q_b_proj;  // with it
  RmsNorm q_a_layernorm;
  Linear kv_a_proj_with_mqa;  // D → kv_lora_rank + qk_rope_head_dim
  RmsNorm kv_a_layernorm;
  Linear kv_b_proj;  // kv_lora_rank → per head: key, then value
  Linear o_proj;
  Precision precision = {};

  struct Saved {
    Linear::Saved q_proj, q_a_proj, q_b_proj, kv_a_proj, kv_b_proj;
    RmsNorm::Saved q_a_layernorm, kv_a_layernorm;
    Tensor q, kv, k_rope, lse_HT;
    Activation o;  // for attention, and the input of o_proj
  };
  struct Deferred {
    Linear::Deferred q_proj, q_a_proj, q_b_proj, kv_a_proj, kv_b_proj, o_proj;
    RmsNorm::Deferred q_a_layernorm, kv_a_layernorm;
  };

  // Keeps no x with precision.recompute_norms: whoever computes it again hands it to keep_input() before B.
  Tensor forward(Exec&, const Activation& x, const LayerContext&, Saved&) const;
  void keep_input(Exec&, const Activation& x, Saved&) const;
  Tensor backward_input(Exec&, const Tensor& dy_TD, const LayerContext&, Saved&&, Deferred&) const;
  void backward_weight(Exec&, Deferred&&, const SampleRows&, Mla& gradient) const;
  void visit(const std::string& prefix, const ParameterVisitor&);
  void visit_products(const ProductWeightVisitor&);
  void set_precision(const Precision&);

 private:
  RopeLayout q_rope_layout() const;
  RopeLayout k_rope_layout() const;
  std::vector<Linear*> projections();
  Tensor queries(Exec&, const Activation& from, const LayerContext&) const;
  void recompute(Exec&, const LayerContext&, Saved&) const;
};

}  // namespace moray
