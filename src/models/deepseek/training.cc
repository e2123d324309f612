#include "models/deepseek/training.h"

#include <fmt/format.h>

#include <algorithm>

#include "ops/cross_entropy.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"

namespace moray::deepseek {

namespace {

// Everything the forward pass keeps for the backward pass of one micro-batch.
struct SavedModel {
  std::vector<Block::Saved> layers;
  RmsNorm::Saved norm;
  std::vector<MtpModule::Saved> mtp;
};

LayerContext context_of(const MicroBatch& batch, const RopeTable& rope) {
  return {batch.rows, {batch.rows.samples, batch.rows.rows_per_sample, batch.document_starts_T}, rope};
}

Tensor embed(Exec& exec, const Model& model, const Tensor& ids_T) {
  Tensor x_TD = exec.empty({ids_T.extent(0), model.config.hidden_size});
  embedding_forward(exec, ids_T, model.embed_tokens_VD, x_TD);
  return x_TD;
}

void enter(const Exec& exec, const char* direction, size_t layer) {
  if (exec.finder != nullptr) exec.finder->enter(fmt::format("{} of model.layers.{}", direction, layer));
}
void enter(const Exec& exec, const char* place) {
  if (exec.finder != nullptr) exec.finder->enter(place);
}

// States after the final norm (entry 0) and after each depth's shared_head_norm.
std::vector<Tensor> forward_states(Exec& exec, const Model& model, const MicroBatch& batch,
                                   const LayerContext& context, BatchStats& stats, SavedModel& saved) {
  saved.layers.resize(model.layers.size());
  saved.mtp.resize(model.mtp.size());
  RoutingStats no_routing;
  size_t moe_layer = 0;
  enter(exec, "embedding");
  Tensor x_TD = embed(exec, model, batch.shifted_T[0]);
  for (size_t layer = 0; layer < model.layers.size(); ++layer) {
    const Block& block = model.layers[layer];
    enter(exec, "forward", layer);
    x_TD = block.forward(exec, x_TD, context, saved.layers[layer],
                         block.is_moe ? stats.routing[moe_layer++] : no_routing);
  }
  enter(exec, "final norm");
  std::vector<Tensor> states{model.norm.forward(exec, x_TD, saved.norm)};
  for (size_t depth = 0; depth < model.mtp.size(); ++depth) {
    enter(exec, "forward", model.layers.size() + depth);
    states.push_back(model.mtp[depth].forward(exec, states.back(),
                                              embed(exec, model, batch.shifted_T[depth + 1]), context,
                                              saved.mtp[depth], stats.routing[moe_layer++]));
  }
  return states;
}

// One value at a time, so that the sum over a batch does not depend on how it was cut into micro-batches.
void add_each(const Tensor& values, double& sum) {
  if (values.dtype() == DType::f64)
    for (double value : values.span<double>()) sum += value;
  else
    for (float value : values.span<float>()) sum += value;
}

// The accumulators that one use (0: the main model, k: depth k) of embedding or head adds into.
Tensor accumulators_of_use(const Tensor& gradient, size_t use, int64_t groups) {
  const auto first = static_cast<int64_t>(use) * groups;
  return gradient.rows(first, first + groups);
}

}  // namespace

BatchStats make_batch_stats(const ModelConfig& config) {
  BatchStats stats;
  stats.loss_sums.resize(static_cast<size_t>(1 + config.num_nextn_predict_layers));
  const int64_t dense = std::min(config.first_k_dense_replace, config.num_hidden_layers);
  stats.routing.resize(
      static_cast<size_t>(config.num_hidden_layers - dense + config.num_nextn_predict_layers));
  for (RoutingStats& routing : stats.routing)
    routing.load.resize(static_cast<size_t>(config.n_routed_experts));
  return stats;
}

void forward_backward(Exec& exec, const Model& model, const MicroBatch& batch, const LossScales& scales,
                      const RopeTable& rope, Model& gradients, BatchStats& stats) {
  const LayerContext context = context_of(batch, rope);
  const int64_t groups = batch.rows.gradient_groups;
  SavedModel saved;
  const size_t live_bytes = exec.allocator->live_bytes();
  const std::vector<Tensor> states = forward_states(exec, model, batch, context, stats, saved);
  stats.kept_bytes =
      std::max(stats.kept_bytes, static_cast<int64_t>(exec.allocator->live_bytes() - live_bytes));

  enter(exec, "head");
  // The head: losses of every depth, and the gradients of the states.
  std::vector<Tensor> dstates;
  for (size_t depth = 0; depth < states.size(); ++depth) {
    const Tensor loss_T = exec.empty_wide({batch.rows.rows()});
    dstates.push_back(exec.empty(states[depth].shape()));
    cross_entropy_forward_backward(exec, states[depth], model.lm_head_VD, batch.shifted_T[depth + 1],
                                   batch.rows, depth == 0 ? scales.main : scales.mtp, loss_T, dstates[depth],
                                   accumulators_of_use(gradients.lm_head_VD, depth, groups));
    add_each(loss_T, stats.loss_sums[depth]);
  }

  for (size_t depth = model.mtp.size(); depth-- > 0;) {
    enter(exec, "backward", model.layers.size() + depth);
    MtpModule::Deferred deferred;
    const Tensor dembedding =
        model.mtp[depth].backward_input(exec, dstates[depth + 1], context, scales.balance,
                                        std::move(saved.mtp[depth]), deferred, dstates[depth]);
    model.mtp[depth].backward_weight(exec, context, std::move(deferred), gradients.mtp[depth]);
    embedding_backward_weight(exec, dembedding, batch.shifted_T[depth + 1], batch.rows,
                              accumulators_of_use(gradients.embed_tokens_VD, depth + 1, groups));
    dstates.pop_back();
  }

  enter(exec, "backward of the final norm");
  RmsNorm::Deferred norm_deferred;
  Tensor dx_TD = model.norm.backward_input(exec, dstates[0], std::move(saved.norm), norm_deferred);
  model.norm.backward_weight(exec, std::move(norm_deferred), batch.rows, gradients.norm);
  for (size_t layer = model.layers.size(); layer-- > 0;) {
    enter(exec, "backward", layer);
    Block::Deferred deferred;
    dx_TD = model.layers[layer].backward_input(exec, dx_TD, context, scales.balance,
                                               std::move(saved.layers[layer]), deferred);
    model.layers[layer].backward_weight(exec, context, std::move(deferred), gradients.layers[layer]);
  }
  enter(exec, "backward of the embedding");
  embedding_backward_weight(exec, dx_TD, batch.shifted_T[0], batch.rows,
                            accumulators_of_use(gradients.embed_tokens_VD, 0, groups));
}

void forward_loss(Exec& exec, const Model& model, const MicroBatch& batch, const RopeTable& rope,
                  BatchStats& stats) {
  SavedModel saved;
  const std::vector<Tensor> states =
      forward_states(exec, model, batch, context_of(batch, rope), stats, saved);
  for (size_t depth = 0; depth < states.size(); ++depth) {
    const Tensor loss_T = exec.empty_wide({batch.rows.rows()});
    cross_entropy_forward(exec, states[depth], model.lm_head_VD, batch.shifted_T[depth + 1], loss_T);
    add_each(loss_T, stats.loss_sums[depth]);
  }
}

}  // namespace moray::deepseek
