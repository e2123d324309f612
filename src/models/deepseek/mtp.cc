#include "models/deepseek/mtp.h"

#include "ops/elementwise.h"

namespace moray::deepseek {

namespace {
Tensor concatenated(Exec& exec, const Tensor& a_TD, const Tensor& b_TD) {
  Tensor both = exec.empty({a_TD.extent(0), a_TD.extent(1) + b_TD.extent(1)});
  concat_columns(exec, a_TD, b_TD, both);
  return both;
}
}  // namespace

Tensor MtpModule::forward(Exec& exec, const Tensor& h_TD, const Tensor& embedding_TD,
                          const LayerContext& context, Saved& saved, RoutingStats& stats) const {
  const Tensor embedding_normed = enorm.forward(exec, embedding_TD, saved.enorm);
  const Tensor h_normed = hnorm.forward(exec, h_TD, saved.hnorm);
  const Tensor x_TD = eh_proj.forward(exec, concatenated(exec, embedding_normed, h_normed), saved.eh_proj);
  if (eh_proj.precision.recompute_norms) saved.eh_proj = {};
  return shared_head_norm.forward(exec, block.forward(exec, x_TD, context, saved.block, stats),
                                  saved.shared_head_norm);
}

Tensor MtpModule::backward_input(Exec& exec, const Tensor& dout_TD, const LayerContext& context,
                                 double balance_coefficient, Saved&& saved, Deferred& deferred,
                                 const Tensor& dh_TD) const {
  const Tensor dblock = shared_head_norm.backward_input(exec, dout_TD, std::move(saved.shared_head_norm),
                                                        deferred.shared_head_norm);
  const Tensor dx_TD = block.backward_input(exec, dblock, context, balance_coefficient,
                                            std::move(saved.block), deferred.block);
  if (eh_proj.precision.recompute_norms) {
    const Tensor both = concatenated(exec, enorm.output(exec, saved.enorm), hnorm.output(exec, saved.hnorm));
    saved.eh_proj.x = eh_proj.kept_input(exec, eh_proj.input(exec, both));
  }
  const Tensor dboth = eh_proj.backward_input(exec, dx_TD, std::move(saved.eh_proj), deferred.eh_proj);
  const Tensor dembedding_normed = exec.empty(dh_TD.shape()), dh_normed = exec.empty(dh_TD.shape());
  split_columns(exec, dboth, dembedding_normed, dh_normed);
  hnorm.backward_input(exec, dh_normed, std::move(saved.hnorm), deferred.hnorm, dh_TD);
  return enorm.backward_input(exec, dembedding_normed, std::move(saved.enorm), deferred.enorm);
}

void MtpModule::backward_weight(Exec& exec, const LayerContext& context, Deferred&& deferred,
                                MtpModule& gradient) const {
  shared_head_norm.backward_weight(exec, std::move(deferred.shared_head_norm), context.rows,
                                   gradient.shared_head_norm);
  block.backward_weight(exec, context, std::move(deferred.block), gradient.block);
  eh_proj.backward_weight(exec, std::move(deferred.eh_proj), context.rows, gradient.eh_proj);
  hnorm.backward_weight(exec, std::move(deferred.hnorm), context.rows, gradient.hnorm);
  enorm.backward_weight(exec, std::move(deferred.enorm), context.rows, gradient.enorm);
}

void MtpModule::visit(const std::string& prefix, const ParameterVisitor& visitor) {
  enorm.visit(prefix + "enorm.", visitor);
  hnorm.visit(prefix + "hnorm.", visitor);
  eh_proj.visit(prefix + "eh_proj.", visitor);
  block.visit(prefix, visitor);
  shared_head_norm.visit(prefix + "shared_head.norm.", visitor);
}

void MtpModule::visit_products(const ProductWeightVisitor& visitor) {
  eh_proj.visit_products(visitor);
  block.visit_products(visitor);
}

void MtpModule::set_precision(const Precision& value) {
  eh_proj.precision = value.of(Part::eh_proj);
  block.set_precision(value);
}

}  // namespace moray::deepseek
