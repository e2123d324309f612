#include "ops/matmul.h"

#include "ops/checks.h"

namespace moray {

namespace {
const MatmulKernels& slot(const Exec& exec) {
  return kernels<MatmulKernels>(exec.device);
}

// Multiplications and additions of rows · weight, in any direction.
double flops_of(const Tensor& rows, const Tensor& weight) {
  const int axis = weight.rank() - 2;  // an expert's weight or an accumulator is one of a stack
  return 2.0 * static_cast<double>(rows.extent(0) * weight.extent(axis) * weight.extent(axis + 1));
}
}  // namespace

void matmul_forward(Exec& exec, const Tensor& x_TI, const Tensor& w_OI, const Tensor& y_TO) {
  expect_shape("matmul_forward", "w", w_OI, {y_TO.extent(1), x_TI.extent(1)});
  expect_shape("matmul_forward", "y", y_TO, {x_TI.extent(0), w_OI.extent(0)});
  launch(exec, "matmul_forward", flops_of(x_TI, w_OI), slot(exec).forward, x_TI, w_OI, y_TO);
}

void matmul_backward_input(Exec& exec, const Tensor& dy_TO, const Tensor& w_OI, const Tensor& dx_TI,
                           bool accumulate) {
  expect_shape("matmul_backward_input", "w", w_OI, {dy_TO.extent(1), dx_TI.extent(1)});
  expect_shape("matmul_backward_input", "dx", dx_TI, {dy_TO.extent(0), w_OI.extent(1)});
  launch(exec, "matmul_backward_input", flops_of(dy_TO, w_OI), slot(exec).backward_input, dy_TO, w_OI, dx_TI,
         accumulate);
}

void matmul_backward_weight(Exec& exec, const Tensor& dy_TO, const Tensor& x_TI, const SampleRows& rows,
                            const Tensor& dw_GOI) {
  expect_rows("matmul_backward_weight", rows, x_TI.extent(0));
  expect_shape("matmul_backward_weight", "dy", dy_TO, {x_TI.extent(0), dw_GOI.extent(1)});
  expect_shape("matmul_backward_weight", "dw", dw_GOI,
               {rows.gradient_groups, dy_TO.extent(1), x_TI.extent(1)});
  launch(exec, "matmul_backward_weight", flops_of(x_TI, dw_GOI), slot(exec).backward_weight, dy_TO, x_TI,
         rows, dw_GOI);
}

void grouped_matmul_forward(Exec& exec, const Tensor& x_RI, const Tensor& w_EOI, const ExpertRows& rows,
                            const Tensor& y_RO) {
  expect_rows("grouped_matmul_forward", rows, x_RI.extent(0));
  expect_shape("grouped_matmul_forward", "w", w_EOI, {rows.experts, y_RO.extent(1), x_RI.extent(1)});
  expect_shape("grouped_matmul_forward", "y", y_RO, {x_RI.extent(0), w_EOI.extent(1)});
  launch(exec, "grouped_matmul_forward", flops_of(x_RI, w_EOI), slot(exec).grouped_forward, x_RI, w_EOI, rows,
         y_RO);
}

void grouped_matmul_backward_input(Exec& exec, const Tensor& dy_RO, const Tensor& w_EOI,
                                   const ExpertRows& rows, const Tensor& dx_RI, bool accumulate) {
  expect_rows("grouped_matmul_backward_input", rows, dy_RO.extent(0));
  expect_shape("grouped_matmul_backward_input", "w", w_EOI, {rows.experts, dy_RO.extent(1), dx_RI.extent(1)});
  expect_shape("grouped_matmul_backward_input", "dx", dx_RI, {dy_RO.extent(0), w_EOI.extent(2)});
  launch(exec, "grouped_matmul_backward_input", flops_of(dy_RO, w_EOI), slot(exec).grouped_backward_input,
         dy_RO, w_EOI, rows, dx_RI, accumulate);
}

void grouped_matmul_backward_weight(Exec& exec, const Tensor& dy_RO, const Tensor& x_RI,
                                    const ExpertRows& rows, const Tensor& dw_EOI) {
  expect_rows("grouped_matmul_backward_weight", rows, x_RI.extent(0));
  expect_shape("grouped_matmul_backward_weight", "dy", dy_RO, {x_RI.extent(0), dw_EOI.extent(1)});
  expect_shape("grouped_matmul_backward_weight", "dw", dw_EOI,
               {rows.experts, dy_RO.extent(1), x_RI.extent(1)});
  launch(exec, "grouped_matmul_backward_weight", flops_of(x_RI, dw_EOI), slot(exec).grouped_backward_weight,
         dy_RO, x_RI, rows, dw_EOI);
}

}  // namespace moray
