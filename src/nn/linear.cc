#include "nn/linear.h"

#include "ops/matmul_fp8.h"

namespace moray {

Activation Linear::input(Exec& exec, const Activation& x) const {
  return fp8() ? x.with_codes(exec, TensorClass::linear_inputs, precision.scales) : x;
}

Activation Linear::kept_input(Exec& exec, const Activation& x) const {
  return x.kept(exec, TensorClass::linear_inputs, precision.when_fp8(precision.linear_inputs),
                precision.scales);
}

Tensor Linear::product(Exec& exec, const Activation& x) const {
  Tensor y_TO = exec.empty({x.rows(), weight_OI.extent(0)});
  if (fp8())
    matmul_fp8_forward(exec, input(exec, x).codes, weight_fp8, y_TO);
  else
    matmul_forward(exec, x.values, weight_OI, y_TO);
  return y_TO;
}

Tensor Linear::forward(Exec& exec, const Activation& x, Saved& saved) const {
  const Activation ready = input(exec, x);
  saved.x = kept_input(exec, ready);
  return product(exec, ready);
}

Tensor Linear::backward_input(Exec& exec, const Tensor& dy_TO, Saved&& saved, Deferred& deferred,
                              Tensor dx_TI) const {
  const bool accumulate = dx_TI.defined();
  if (!accumulate) dx_TI = exec.empty({dy_TO.extent(0), weight_OI.extent(1)});
  if (fp8())
    matmul_fp8_backward_input(
        exec, row_tiles(exec, TensorClass::output_gradients, dy_TO, CodeFormat::f8_e4m3, precision.scales),
        weight_fp8, dx_TI, accumulate);
  else
    matmul_backward_input(exec, dy_TO, weight_OI, dx_TI, accumulate);
  deferred = {std::move(saved.x), dy_TO};
  return dx_TI;
}

void Linear::backward_weight(Exec& exec, Deferred&& deferred, const SampleRows& rows,
                             Linear& gradient) const {
  if (fp8())
    matmul_fp8_backward_weight(
        exec, token_tiles(exec, TensorClass::output_gradients, deferred.dy_TO, rows, precision.scales),
        token_tiles(exec, TensorClass::linear_inputs, deferred.x, rows, precision.scales), rows,
        gradient.weight_OI);
  else
    matmul_backward_weight(exec, deferred.dy_TO, deferred.x.values, rows, gradient.weight_OI);
  deferred = {};
}

void Linear::visit(const std::string& prefix, const ParameterVisitor& visitor) {
  visitor(prefix + "weight", weight_OI, ParameterKind::matrix);
}

void Linear::visit_products(const ProductWeightVisitor& visitor) {
  visitor(weight_OI, precision.fp8() ? &weight_fp8 : nullptr);
}

}  // namespace moray
