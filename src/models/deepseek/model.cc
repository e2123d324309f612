#include "models/deepseek/model.h"

#include <fmt/format.h>

#include "base/random.h"
#include "ops/embedding.h"

namespace moray::deepseek {

namespace {

void allocate_attention(const MakeTensor& make, const ModelConfig& config, Mla& mla) {
  const int64_t hidden = config.hidden_size, key_width = config.qk_nope_head_dim + config.qk_rope_head_dim;
  const int64_t heads = config.num_attention_heads;
  if (mla.has_q_lora) {
    mla.q_a_proj.weight_OI = make({config.q_lora_rank, hidden});
    mla.q_a_layernorm.weight_D = make({config.q_lora_rank});
    mla.q_b_proj.weight_OI = make({heads * key_width, config.q_lora_rank});
  } else {
    mla.q_proj.weight_OI = make({heads * key_width, hidden});
  }
  mla.kv_a_proj_with_mqa.weight_OI = make({config.kv_lora_rank + config.qk_rope_head_dim, hidden});
  mla.kv_a_layernorm.weight_D = make({config.kv_lora_rank});
  mla.kv_b_proj.weight_OI =
      make({heads * (config.qk_nope_head_dim + config.v_head_dim), config.kv_lora_rank});
  mla.o_proj.weight_OI = make({hidden, heads * config.v_head_dim});
}

void allocate_mlp(const MakeTensor& make, int64_t hidden, int64_t width, Mlp& mlp) {
  mlp.gate_proj.weight_OI = make({width, hidden});
  mlp.up_proj.weight_OI = make({width, hidden});
  mlp.down_proj.weight_OI = make({hidden, width});
}

Block allocate_block(const MakeTensor& make, const ModelConfig& config, bool moe) {
  Block block = make_block(config, moe);
  const int64_t hidden = config.hidden_size, width = config.moe_intermediate_size;
  block.input_layernorm.weight_D = make({hidden});
  block.post_attention_layernorm.weight_D = make({hidden});
  allocate_attention(make, config, block.self_attn);
  if (!moe) {
    allocate_mlp(make, hidden, config.intermediate_size, block.mlp);
    return block;
  }
  const int64_t experts = config.n_routed_experts;
  block.gate.weight_ED = make({experts, hidden});
  if (block.gate.has_bias) block.gate.bias_E = make({experts});
  block.experts.gate_proj_EFD = make({experts, width, hidden});
  block.experts.up_proj_EFD = make({experts, width, hidden});
  block.experts.down_proj_EDF = make({experts, hidden, width});
  if (block.has_mlp) allocate_mlp(make, hidden, config.n_shared_experts * width, block.mlp);
  return block;
}

template <class T>
void fill(std::span<T> values, ParameterKind kind, const std::string& name, double range, uint64_t seed) {
  if (kind == ParameterKind::vector || kind == ParameterKind::buffer) {
    std::fill(values.begin(), values.end(), kind == ParameterKind::vector ? T{1} : T{0});
    return;
  }
  Random random(seed, name_stream(name));
  for (T& value : values) value = static_cast<T>(range * random.normal());
}

}  // namespace

void Model::visit(const std::string& prefix, const ParameterVisitor& visitor) {
  visitor(prefix + "model.embed_tokens.weight", embed_tokens_VD, ParameterKind::table);
  for (size_t layer = 0; layer < layers.size(); ++layer)
    layers[layer].visit(fmt::format("{}model.layers.{}.", prefix, layer), visitor);
  norm.visit(prefix + "model.norm.", visitor);
  visitor(prefix + "lm_head.weight", lm_head_VD, ParameterKind::table);
  for (size_t depth = 0; depth < mtp.size(); ++depth)
    mtp[depth].visit(fmt::format("{}model.layers.{}.", prefix, layers.size() + depth), visitor);
}

void Model::visit_products(const ProductWeightVisitor& visitor) {
  for (Block& block : layers) block.visit_products(visitor);
  visitor(lm_head_VD, nullptr);
  for (MtpModule& module : mtp) module.visit_products(visitor);
}

void Model::set_precision(const Precision& precision) {
  for (Block& block : layers) block.set_precision(precision);
  for (MtpModule& module : mtp) module.set_precision(precision);
}

Model make_model(const ModelConfig& config, const MakeTensor& make) {
  Model model;
  model.config = config;
  model.embed_tokens_VD = make({config.vocab_size, config.hidden_size});
  model.lm_head_VD = make({config.vocab_size, config.hidden_size});
  model.norm = {make({config.hidden_size}), config.rms_norm_eps};
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer)
    model.layers.push_back(allocate_block(make, config, config.is_moe_layer(layer)));
  for (int64_t depth = 0; depth < config.num_nextn_predict_layers; ++depth) {
    MtpModule module;
    module.enorm = module.hnorm = module.shared_head_norm = {{}, config.rms_norm_eps};
    for (RmsNorm* norm : {&module.enorm, &module.hnorm, &module.shared_head_norm})
      norm->weight_D = make({config.hidden_size});
    module.eh_proj.weight_OI = make({config.hidden_size, 2 * config.hidden_size});
    module.block = allocate_block(make, config, /*moe=*/true);
    model.mtp.push_back(std::move(module));
  }
  return model;
}

Model allocate_model(const Exec& exec, const ModelConfig& config) {
  return make_model(config, [&](const Shape& shape) { return exec.empty(shape); });
}

void initialize(const Exec& exec, Model& model, uint64_t seed) {
  const std::vector<NamedWeight> weights = named_weights(model);
  exec.pool->for_each(static_cast<int64_t>(weights.size()), [&](int64_t index, int) {
    const NamedWeight& weight = weights[static_cast<size_t>(index)];
    const double range = model.config.initializer_range;
    if (weight.tensor.dtype() == DType::f64)
      fill(weight.tensor.span<double>(), weight.kind, weight.name, range, seed);
    else
      fill(weight.tensor.span<float>(), weight.kind, weight.name, range, seed);
  });
}

Model allocate_gradients(const Exec& exec, Model& model, int64_t gradient_groups) {
  Model gradients = model;
  const int64_t uses = 1 + model.config.num_nextn_predict_layers;
  gradients.visit("", [&](const std::string&, Tensor& tensor, ParameterKind kind) {
    switch (kind) {
      case ParameterKind::matrix:
        tensor = exec.zeros({gradient_groups, tensor.extent(0), tensor.extent(1)});
        break;
      case ParameterKind::vector:
        tensor = exec.zeros({gradient_groups, tensor.extent(0)});
        break;
      case ParameterKind::table:
        tensor = exec.zeros({uses * gradient_groups, tensor.extent(0), tensor.extent(1)});
        break;
      case ParameterKind::experts:
        tensor = exec.zeros(tensor.shape());
        break;
      case ParameterKind::buffer:
        tensor = {};
        break;
    }
  });
  return gradients;
}

std::vector<NamedWeight> named_weights(Model& model) {
  std::vector<NamedWeight> weights;
  for (const Parameter& parameter : list_parameters(model)) {
    if (parameter.kind != ParameterKind::experts) {
      weights.push_back({parameter.name, *parameter.tensor, parameter.kind});
      continue;
    }
    for (int64_t expert = 0; expert < parameter.tensor->extent(0); ++expert)
      weights.push_back(
          {fmt::format(fmt::runtime(parameter.name), expert), parameter.tensor->row(expert), parameter.kind});
  }
  return weights;
}

RopeTable make_rope_table(const Exec& exec, const ModelConfig& config, int64_t positions) {
  return moray::make_rope_table(exec, positions, config.qk_rope_head_dim, config.rope_theta,
                                config.rope_scaling);
}

Tensor hidden_states(Exec& exec, const Model& model, const Tensor& ids_T, const SampleRows& rows,
                     const RopeTable& rope) {
  const LayerContext context{rows, {rows.samples, rows.rows_per_sample, {}}, rope};
  Tensor x_TD = exec.empty({ids_T.extent(0), model.config.hidden_size});
  embedding_forward(exec, ids_T, model.embed_tokens_VD, x_TD);
  RoutingStats stats;
  stats.load.resize(static_cast<size_t>(model.config.n_routed_experts));
  for (const Block& block : model.layers) {
    Block::Saved saved;
    x_TD = block.forward(exec, x_TD, context, saved, stats);
  }
  RmsNorm::Saved saved;
  return model.norm.forward(exec, x_TD, saved);
}

}  // namespace moray::deepseek
