#include "train/optimizer.h"

#include <cmath>

#include "ops/elementwise.h"

namespace moray {

namespace {

// a[0] = the sum of all, neighbours first: the same tree whatever computes it.
void join_tree(Exec& exec, const std::vector<Tensor>& slices) {
  for (size_t stride = 1; stride < slices.size(); stride *= 2)
    for (size_t i = 0; i + stride < slices.size(); i += 2 * stride)
      add(exec, slices[i], slices[i + stride], slices[i]);
}

float sum_tree(std::vector<float> values) {
  for (size_t stride = 1; stride < values.size(); stride *= 2)
    for (size_t i = 0; i + stride < values.size(); i += 2 * stride) values[i] += values[i + stride];
  return values.empty() ? 0.0f : values[0];
}

float sum_of_squares(Exec& exec, const Tensor& x) {
  const Tensor squares =
      Tensor::empty(*exec.allocator, {(x.elements() + kNormBlock - 1) / kNormBlock}, DType::f32);
  squares_of_blocks(exec, x, squares);
  const std::span<const float> blocks = squares.span<float>();
  return sum_tree({blocks.begin(), blocks.end()});
}

}  // namespace

void join_gradients(Exec& exec, deepseek::Model& gradients, int64_t gradient_groups) {
  for (const Parameter& gradient : list_parameters(gradients)) {
    if (gradient.kind == ParameterKind::experts || gradient.kind == ParameterKind::buffer) continue;
    const Tensor& accumulators = *gradient.tensor;
    const int64_t uses = accumulators.extent(0) / gradient_groups;
    for (int64_t use = 0; use < uses; ++use) {
      std::vector<Tensor> slices;
      for (int64_t group = 0; group < gradient_groups; ++group)
        slices.push_back(accumulators.row(use * gradient_groups + group));
      join_tree(exec, slices);
      if (use > 0) add(exec, accumulators.row(0), slices[0], accumulators.row(0));
    }
  }
}

Tensor joined_gradient(const Parameter& gradient) {
  return gradient.kind == ParameterKind::experts ? *gradient.tensor : gradient.tensor->row(0);
}

double gradient_norm(Exec& exec, deepseek::Model& gradients) {
  std::vector<float> squares;
  for (const Parameter& gradient : list_parameters(gradients)) {
    if (gradient.kind == ParameterKind::buffer) continue;
    const Tensor joined = joined_gradient(gradient);
    if (gradient.kind == ParameterKind::experts) {
      for (int64_t expert = 0; expert < joined.extent(0); ++expert)
        squares.push_back(sum_of_squares(exec, joined.row(expert)));
    } else {
      squares.push_back(sum_of_squares(exec, joined));
    }
  }
  return std::sqrt(sum_tree(std::move(squares)));
}

Optimizer::Optimizer(const Exec& exec, deepseek::Model& model, const OptimizerConfig& config)
    : config_(config), m_(model), v_(model) {
  for (deepseek::Model* moments : {&m_, &v_})
    moments->visit("", [&](const std::string&, Tensor& tensor, ParameterKind kind) {
      tensor = kind == ParameterKind::buffer
                   ? Tensor()
                   : Tensor::zeros(*exec.allocator, tensor.shape(), config.moment_dtype);
    });
}

void Optimizer::step(Exec& exec, deepseek::Model& model, deepseek::Model& gradients, double learning_rate,
                     double norm) {
  ++steps_;
  AdamWStep adamw{.learning_rate = learning_rate,
                  .beta1 = config_.beta1,
                  .beta2 = config_.beta2,
                  .eps = config_.eps,
                  .step = steps_};
  adamw.gradient_scale = config_.clip_norm > 0 && norm > config_.clip_norm ? config_.clip_norm / norm : 1.0;
  const std::vector<Parameter> weights = list_parameters(model), gradient_list = list_parameters(gradients);
  const std::vector<Parameter> m = list_parameters(m_), v = list_parameters(v_);
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i].kind == ParameterKind::buffer) continue;
    adamw.weight_decay = weights[i].kind == ParameterKind::vector ? 0 : config_.weight_decay;
    adamw_update(exec, adamw, joined_gradient(gradient_list[i]), *weights[i].tensor, *m[i].tensor,
                 *v[i].tensor);
  }
}

}  // namespace moray
