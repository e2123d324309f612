// What a layer's parameters are called and what they are. A layer lists its tensors once, in visit(); that
// list drives initialisation, gradients, optimizer, checkpoints and counts.
//
// Gradients, moments and averages are trees of the same type as the layer: visited side by side, entry i of
// one belongs to entry i of the other.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "ops/rows.h"

namespace moray {

enum class ParameterKind : uint8_t {
  matrix,   // [O, I]: decays; its gradient has one accumulator a gradient group, [G, O, I]
  vector,   // norms, [D]: do not decay; gradient [G, D]
  experts,  // [E, O, I]: decay; one accumulator an expert, [E, O, I]. The name holds "{}" for the expert
  table,  // embedding and head, [V, D], used by the main model and every MTP depth: decay; gradient [uses·G,
          // V, D]
  buffer,  // the balance bias, [E]: no gradient
};

struct Parameter {
  std::string name;  // Hugging Face's
  Tensor* tensor = nullptr;
  ParameterKind kind = ParameterKind::matrix;
};

// Calls with (name, tensor, kind) for every tensor, in a fixed order.
using ParameterVisitor = std::function<void(const std::string&, Tensor&, ParameterKind)>;

template <class Layer>
std::vector<Parameter> list_parameters(Layer& layer) {
  std::vector<Parameter> list;
  layer.visit("", [&](const std::string& name, Tensor& tensor, ParameterKind kind) {
    list.push_back({name, &tensor, kind});
  });
  return list;
}

}  // namespace moray
