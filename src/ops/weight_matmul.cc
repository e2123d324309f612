#include "ops/weight_matmul.h"

#include "ops/checks.h"

namespace moray {

namespace {
void check(const WeightProduct& product) {
  const char* const op = "weight_matmul";
  const StoredWeight& w = product.w_OI;
  expect_shape(op, "x", product.x_TI, {product.y_TO.extent(0), w.inputs()});
  expect_shape(op, "y", product.y_TO, {product.x_TI.extent(0), w.outputs()});
  if (w.is_integer()) expect_shape(op, "scales", w.scales, {w.outputs(), int_row_scales(w.inputs())});
  if (w.values_OI.dtype() != DType::f8_e4m3) return;
  MORAY_CHECK(w.scales.defined() && w.scales.rank() == 2 && w.first_row >= 0 &&
                  (w.first_row + w.outputs() + kTile - 1) / kTile <= w.scales.extent(0) &&
                  (w.inputs() + kTile - 1) / kTile == w.scales.extent(1),
              "[{}] scales do not cover rows from {} of a weight of {}", op, w.first_row,
              w.values_OI.shape().to_string());
}
}  // namespace

void weight_matmul(Exec& exec, std::span<const WeightProduct> products) {
  double flops = 0;
  for (const WeightProduct& product : products) {
    check(product);
    flops += 2.0 * static_cast<double>(product.x_TI.elements() * product.w_OI.outputs());
  }
  launch(exec, "weight_matmul", flops, kernels<WeightMatmulKernels>(exec.device).forward, products);
}

}  // namespace moray
