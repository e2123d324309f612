// The router: scores, group-limited top-k selection, gates, and the sequence-wise balance loss (facts §1,
// "Router").
//
// T tokens, E experts, K experts a token, S samples.
#pragma once

#include "ops/rows.h"

namespace moray {

enum class ScoringFunc : uint8_t { sigmoid, softmax };

struct RouterConfig {
  ScoringFunc scoring_func = ScoringFunc::sigmoid;
  int64_t n_group = 1, topk_group = 1, num_experts_per_tok = 1;
  bool norm_topk_prob = true;
  double routed_scaling_factor = 1;
  // V3: a group's score is the sum of its two best biased scores; V2: the best score.
  bool group_score_top2 = true;
};

struct RouteKernels {
  void (*forward)(Exec&, const Tensor& logits_TE, const Tensor& bias_E, const RouterConfig&, bool ids_given,
                  const Tensor& scores_TE, const Tensor& ids_TK, const Tensor& gates_TK) = nullptr;
  void (*backward)(Exec&, const Tensor& dgates_TK, const Tensor& scores_TE, const Tensor& ids_TK,
                   const RouterConfig&, const Tensor& dscores_TE, const Tensor& dlogits_TE) = nullptr;
  void (*balance_forward)(Exec&, const Tensor& scores_TE, int64_t samples, int64_t num_experts_per_tok,
                          const Tensor& fraction_SE, const Tensor& loss_S) = nullptr;
  void (*balance_backward)(Exec&, const Tensor& scores_TE, const Tensor& fraction_SE, int64_t samples,
                           double coefficient, const Tensor& dscores_TE) = nullptr;
};

// scores = sigmoid or softmax of the logits. Selection uses scores + bias (bias_E may be undefined): keep the
// topk_group groups with the best group scores, put the others at −infinity, take the top K experts; among
// equals the lower id wins. ids_TK (i32) ascend within a token. gates = score (without bias) / (Σ selected +
// 1e-20) when norm_topk_prob, times routed_scaling_factor. With `ids_given`, ids_TK is an input and only
// scores and gates are computed (routing held fixed).
void route_forward(Exec&, const Tensor& logits_TE, const Tensor& bias_E, const RouterConfig&, bool ids_given,
                   const Tensor& scores_TE, const Tensor& ids_TK, const Tensor& gates_TK);

// dlogits from dgates and dscores_TE (what already flows into the scores, from the balance loss; may be
// undefined).
void route_backward(Exec&, const Tensor& dgates_TK, const Tensor& scores_TE, const Tensor& ids_TK,
                    const RouterConfig&, const Tensor& dscores_TE, const Tensor& dlogits_TE);

// Sequence-wise balance loss without its α: loss_S = Σ_i f_i P_i, f_i = E/(K T_s) · #{t: i among the top K of
// the plain scores, no bias, no group limit}, P_i = mean_t s_i/Σ_j s_j. fraction_SE keeps f.
void balance_loss_forward(Exec&, const Tensor& scores_TE, int64_t samples, int64_t num_experts_per_tok,
                          const Tensor& fraction_SE, const Tensor& loss_S);

// dscores_TE = coefficient · ∂(Σ_S loss)/∂scores, f held constant. coefficient = α / (samples of the global
// batch).
void balance_loss_backward(Exec&, const Tensor& scores_TE, const Tensor& fraction_SE, int64_t samples,
                           double coefficient, const Tensor& dscores_TE);

}  // namespace moray
