// Where the first number that is not finite arose: while an Exec has a finder, the tensors of every op are
// looked at after it ran. For a step run again, whose bits are those of the first time: too slow for every
// step.
#pragma once

#include <map>
#include <string>

#include "tensor/tensor.h"

namespace moray {

class FiniteFinder {
 public:
  // Tensors that messages call by name: weights, their copies for products, their gradients.
  void name(const Tensor& tensor, const std::string& name);
  void name_like(const Tensor& tensor, const Tensor& named);
  // Where in the model the following ops are: "forward of model.layers.3".
  void enter(std::string place) { place_ = std::move(place); }

  // After an op ran. The first finding stays; later calls do nothing.
  void examine(const char* op, int argument, const Tensor& tensor);
  void begin_op() { op_name_.clear(); }

  bool found() const { return !finding_.empty(); }
  // "backward of model.layers.3: grouped_matmul_forward with model.layers.3.mlp.experts.{}.up_proj.weight,
  // tensor 3 [96, 24]: 5 NaN, 0 infinite, the first at row 17". Empty: nothing was found.
  const std::string& finding() const { return finding_; }

 private:
  std::map<const std::byte*, std::string> names_;
  std::string place_, op_name_, finding_;
};

// Counts what is not finite in an f32, f64 or bf16 tensor (others: nothing).
struct NonFiniteCount {
  int64_t nans = 0, infinities = 0, first = -1;  // index of the first element
  bool any() const { return first >= 0; }
};
NonFiniteCount count_non_finite(const Tensor& tensor);

}  // namespace moray
