// The router of a MoE layer, in FP32 (but for what it reads) whatever the recipe's precision: logits, scores,
// group-limited top-k with the balance bias, gates, the sequence-wise loss, and the experts' load.
//
// T rows, D hidden, E experts, K experts a token.
#pragma once

#include "nn/parameters.h"
#include "ops/matmul.h"
#include "ops/route.h"

namespace moray {

struct Router {
  RouterConfig config;
  Tensor weight_ED;
  bool has_bias = true;
  Tensor bias_E;  // e_score_correction_bias: for selection only, moved by balance_bias_update, never by a
                  // gradient

  struct Saved {
    Tensor x_TD;  // not with recompute_norms: the block puts it back before B
    Tensor scores_TE, ids_TK, gates_TK, fraction_SE;
  };
  struct Deferred {
    Tensor x_TD, dlogits_TE;
  };

  // Fills ids_TK, gates_TK (in saved). With fixed_ids_TK defined, routing is that and not chosen. Adds the
  // unscaled balance loss of each sample to balance_loss, and the tokens each expert got to load (E counts).
  void forward(Exec&, const Tensor& x_TD, const SampleRows&, const Tensor& fixed_ids_TK, Saved&,
               double& balance_loss, std::vector<int64_t>& load) const;
  // Adds to dx_TD. balance_coefficient = α / samples of the global batch (0: no balance loss).
  void backward_input(Exec&, const Tensor& dgates_TK, const SampleRows&, double balance_coefficient, Saved&&,
                      Deferred&, const Tensor& dx_TD) const;
  void backward_weight(Exec&, Deferred&&, const SampleRows&, Router& gradient) const;
  void visit(const std::string& prefix, const ParameterVisitor&);
};

// Balancing without auxiliary loss: bias −= γ for experts above the mean load of the whole batch, += γ for
// those below.
void balance_bias_update(const Tensor& bias_E, const std::vector<int64_t>& load, double gamma);

}  // namespace moray
