#include "nn/router.h"

#include <numeric>

namespace moray {

namespace {
// One value at a time, so that the sum over a batch does not depend on how it was cut into micro-batches.
void add_each(const Tensor& values, double& sum) {
  if (values.dtype() == DType::f64)
    for (double value : values.span<double>()) sum += value;
  else
    for (float value : values.span<float>()) sum += value;
}
}  // namespace

void Router::forward(Exec& exec, const Tensor& x_TD, const SampleRows& rows, const Tensor& fixed_ids_TK,
                     Saved& saved, double& balance_loss, std::vector<int64_t>& load) const {
  const int64_t tokens = x_TD.extent(0), experts = weight_ED.extent(0);
  saved.x_TD = x_TD;
  const Tensor logits_TE = exec.empty_wide({tokens, experts});
  matmul_forward(exec, x_TD, weight_ED, logits_TE);
  saved.scores_TE = exec.empty_wide(logits_TE.shape());
  saved.gates_TK = exec.empty_wide({tokens, config.num_experts_per_tok});
  const bool ids_given = fixed_ids_TK.defined();
  saved.ids_TK = ids_given ? fixed_ids_TK : exec.empty_i32({tokens, config.num_experts_per_tok});
  route_forward(exec, logits_TE, bias_E, config, ids_given, saved.scores_TE, saved.ids_TK, saved.gates_TK);

  saved.fraction_SE = exec.empty_wide({rows.samples, experts});
  const Tensor loss_S = exec.empty_wide({rows.samples});
  balance_loss_forward(exec, saved.scores_TE, rows.samples, config.num_experts_per_tok, saved.fraction_SE,
                       loss_S);
  add_each(loss_S, balance_loss);
  for (int32_t id : saved.ids_TK.span<int32_t>()) ++load[static_cast<size_t>(id)];
}

void Router::backward_input(Exec& exec, const Tensor& dgates_TK, const SampleRows& rows,
                            double balance_coefficient, Saved&& saved, Deferred& deferred,
                            const Tensor& dx_TD) const {
  Tensor dscores_TE;
  if (balance_coefficient != 0) {
    dscores_TE = exec.empty_wide(saved.scores_TE.shape());
    balance_loss_backward(exec, saved.scores_TE, saved.fraction_SE, rows.samples, balance_coefficient,
                          dscores_TE);
  }
  deferred = {std::move(saved.x_TD), exec.empty_wide(saved.scores_TE.shape())};
  route_backward(exec, dgates_TK, saved.scores_TE, saved.ids_TK, config, dscores_TE, deferred.dlogits_TE);
  matmul_backward_input(exec, deferred.dlogits_TE, weight_ED, dx_TD, /*accumulate=*/true);
  saved = {};
}

void Router::backward_weight(Exec& exec, Deferred&& deferred, const SampleRows& rows,
                             Router& gradient) const {
  matmul_backward_weight(exec, deferred.dlogits_TE, deferred.x_TD, rows, gradient.weight_ED);
  deferred = {};
}

void Router::visit(const std::string& prefix, const ParameterVisitor& visitor) {
  visitor(prefix + "weight", weight_ED, ParameterKind::matrix);
  if (has_bias) visitor(prefix + "e_score_correction_bias", bias_E, ParameterKind::buffer);
}

void balance_bias_update(const Tensor& bias_E, const std::vector<int64_t>& load, double gamma) {
  const auto experts = static_cast<int64_t>(load.size());
  const int64_t total = std::accumulate(load.begin(), load.end(), int64_t{0});
  for (int64_t expert = 0; expert < experts; ++expert) {
    // load > mean in integers: load · experts > total
    const int64_t difference = load[static_cast<size_t>(expert)] * experts - total;
    const double change = difference > 0 ? -gamma : difference < 0 ? gamma : 0;
    if (bias_E.dtype() == DType::f64)
      bias_E.data<double>()[expert] += change;
    else
      bias_E.data<float>()[expert] += static_cast<float>(change);
  }
}

}  // namespace moray
