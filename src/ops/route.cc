#include "ops/route.h"

#include "ops/checks.h"

namespace moray {

namespace {
const RouteKernels& slot(const Exec& exec) {
  return kernels<RouteKernels>(exec.device);
}
}  // namespace

void route_forward(Exec& exec, const Tensor& logits_TE, const Tensor& bias_E, const RouterConfig& config,
                   bool ids_given, const Tensor& scores_TE, const Tensor& ids_TK, const Tensor& gates_TK) {
  const int64_t tokens = logits_TE.extent(0), experts = logits_TE.extent(1);
  if (bias_E.defined()) expect_shape("route_forward", "bias", bias_E, {experts});
  expect_shape("route_forward", "scores", scores_TE, {tokens, experts});
  expect_shape("route_forward", "ids", ids_TK, {tokens, config.num_experts_per_tok});
  expect_shape("route_forward", "gates", gates_TK, ids_TK.shape());
  MORAY_CHECK(experts % config.n_group == 0 && config.topk_group <= config.n_group &&
              config.num_experts_per_tok <= experts / config.n_group * config.topk_group);
  launch(exec, "route_forward", 0, slot(exec).forward, logits_TE, bias_E, config, ids_given, scores_TE,
         ids_TK, gates_TK);
}

void route_backward(Exec& exec, const Tensor& dgates_TK, const Tensor& scores_TE, const Tensor& ids_TK,
                    const RouterConfig& config, const Tensor& dscores_TE, const Tensor& dlogits_TE) {
  expect_shape("route_backward", "dgates", dgates_TK, ids_TK.shape());
  if (dscores_TE.defined()) expect_shape("route_backward", "dscores", dscores_TE, scores_TE.shape());
  expect_shape("route_backward", "dlogits", dlogits_TE, scores_TE.shape());
  launch(exec, "route_backward", 0, slot(exec).backward, dgates_TK, scores_TE, ids_TK, config, dscores_TE,
         dlogits_TE);
}

void balance_loss_forward(Exec& exec, const Tensor& scores_TE, int64_t samples, int64_t num_experts_per_tok,
                          const Tensor& fraction_SE, const Tensor& loss_S) {
  MORAY_CHECK(samples > 0 && scores_TE.extent(0) % samples == 0);
  expect_shape("balance_loss_forward", "fraction", fraction_SE, {samples, scores_TE.extent(1)});
  expect_shape("balance_loss_forward", "loss", loss_S, {samples});
  launch(exec, "balance_loss_forward", 0, slot(exec).balance_forward, scores_TE, samples, num_experts_per_tok,
         fraction_SE, loss_S);
}

void balance_loss_backward(Exec& exec, const Tensor& scores_TE, const Tensor& fraction_SE, int64_t samples,
                           double coefficient, const Tensor& dscores_TE) {
  MORAY_CHECK(samples > 0 && scores_TE.extent(0) % samples == 0);
  expect_shape("balance_loss_backward", "fraction", fraction_SE, {samples, scores_TE.extent(1)});
  expect_shape("balance_loss_backward", "dscores", dscores_TE, scores_TE.shape());
  launch(exec, "balance_loss_backward", 0, slot(exec).balance_backward, scores_TE, fraction_SE, samples,
         coefficient, dscores_TE);
}

}  // namespace moray
