// The whole model: embedding, blocks, final norm, head, and the MTP modules that share embedding and head.
//
// T rows, D hidden, V vocabulary, G gradient groups.
#pragma once

#include "models/deepseek/mtp.h"

namespace moray::deepseek {

struct Model {
  ModelConfig config;
  Tensor embed_tokens_VD, lm_head_VD;
  std::vector<Block> layers;
  RmsNorm norm;
  std::vector<MtpModule> mtp;

  // Every tensor under its Hugging Face name (experts as one tensor with "{}" in the name).
  void visit(const std::string& prefix, const ParameterVisitor&);
  void visit_products(const ProductWeightVisitor&);
  void set_precision(const Precision&);
};

// The whole tree, with make(shape) for every tensor.
using MakeTensor = std::function<Tensor(const Shape&)>;
Model make_model(const ModelConfig&, const MakeTensor& make);

// Weights uninitialised, of exec's dtype.
Model allocate_model(const Exec&, const ModelConfig&);

// N(0, initializer_range²) for matrices, 1 for norms, 0 for the balance bias. A tensor's numbers depend on
// the seed and its Hugging Face name alone.
void initialize(const Exec&, Model&, uint64_t seed);

// A tree of zeros that backward passes add into (shapes: nn/parameters.h).
Model allocate_gradients(const Exec&, Model&, int64_t gradient_groups);

// Hugging Face names and tensors, experts one by one. Tensors share storage with the model.
struct NamedWeight {
  std::string name;
  Tensor tensor;
  ParameterKind kind;
};
std::vector<NamedWeight> named_weights(Model&);

// cos/sin for `positions` positions.
RopeTable make_rope_table(const Exec&, const ModelConfig&, int64_t positions);

// Inference: the states after the final norm, [T, D]; `rows` says how ids_T splits into sequences.
Tensor hidden_states(Exec&, const Model&, const Tensor& ids_T, const SampleRows& rows, const RopeTable&);

}  // namespace moray::deepseek
