#include "ops/matmul_fp8.h"

#include "ops/checks.h"

namespace moray {

namespace {
const MatmulFp8Kernels& slot(const Exec& exec) {
  MORAY_CHECK(exec.tensor_core == nullptr || exec.device == Device::reference,
              "a tensor core is modelled on the reference device alone");
  return kernels<MatmulFp8Kernels>(exec.device);
}

void expect_quantized(const char* op, const char* name, const QuantizedTensor& q, Tiling tiling,
                      Shape shape) {
  MORAY_CHECK(q.tiling == tiling && q.shape == shape, "[{}] {} is {} of tiling {}, expected {} of tiling {}",
              op, name, q.shape.to_string(), static_cast<int>(q.tiling), shape.to_string(),
              static_cast<int>(tiling));
}

// A scale per k-block: the token tiles must be cut as the weight gradient cuts its sum.
template <class Rows>
void expect_row_blocks(const char* op, const char* name, const Rows& rows, const QuantizedTensor& q) {
  const std::span<const int32_t> at = q.row_blocks.span<int32_t>();
  size_t n = 0;
  bool equal = true;
  for_row_blocks(rows, [&](int64_t, int64_t end) {
    ++n;
    equal = equal && n < at.size() && at[n] == end;
  });
  MORAY_CHECK(equal && n + 1 == at.size(), "[{}] the token tiles of {} are not the row blocks of these rows",
              op, name);
}

template <class Rows>
void expect_gradient_operands(const char* op, const QuantizedTensor& dy, const QuantizedTensor& x,
                              const Rows& rows, int64_t outputs) {
  expect_rows(op, rows, x.shape[0]);
  expect_quantized(op, "dy", dy, Tiling::token_tiles, {x.shape[0], outputs});
  expect_quantized(op, "x", x, Tiling::token_tiles, x.shape);
  expect_row_blocks(op, "dy", rows, dy);
  expect_row_blocks(op, "x", rows, x);
}

double flops_of(int64_t rows, int64_t inputs, int64_t outputs) {
  return 2.0 * static_cast<double>(rows) * static_cast<double>(inputs) * static_cast<double>(outputs);
}
}  // namespace

void matmul_fp8_forward(Exec& exec, const QuantizedTensor& x_TI, const QuantizedTensor& w_OI,
                        const Tensor& y_TO) {
  constexpr const char* kOp = "matmul_fp8_forward";
  const int64_t T = x_TI.shape[0], I = x_TI.columns(), O = y_TO.extent(1);
  expect_quantized(kOp, "x", x_TI, Tiling::row_tiles, {T, I});
  expect_quantized(kOp, "w", w_OI, Tiling::blocks, {O, I});
  expect_shape(kOp, "y", y_TO, {T, O});
  launch(exec, kOp, flops_of(T, I, O), slot(exec).forward, x_TI, w_OI, y_TO);
}

void matmul_fp8_backward_input(Exec& exec, const QuantizedTensor& dy_TO, const QuantizedTensor& w_OI,
                               const Tensor& dx_TI, bool accumulate) {
  constexpr const char* kOp = "matmul_fp8_backward_input";
  const int64_t T = dy_TO.shape[0], I = dx_TI.extent(1), O = dy_TO.columns();
  expect_quantized(kOp, "dy", dy_TO, Tiling::row_tiles, {T, O});
  expect_quantized(kOp, "w", w_OI, Tiling::blocks, {O, I});
  expect_shape(kOp, "dx", dx_TI, {T, I});
  launch(exec, kOp, flops_of(T, I, O), slot(exec).backward_input, dy_TO, w_OI, dx_TI, accumulate);
}

void matmul_fp8_backward_weight(Exec& exec, const QuantizedTensor& dy_TO, const QuantizedTensor& x_TI,
                                const SampleRows& rows, const Tensor& dw_GOI) {
  constexpr const char* kOp = "matmul_fp8_backward_weight";
  const int64_t I = x_TI.columns(), O = dw_GOI.extent(1);
  expect_gradient_operands(kOp, dy_TO, x_TI, rows, O);
  expect_shape(kOp, "dw", dw_GOI, {rows.gradient_groups, O, I});
  launch(exec, kOp, flops_of(x_TI.shape[0], I, O), slot(exec).backward_weight, dy_TO, x_TI, rows, dw_GOI);
}

void grouped_matmul_fp8_forward(Exec& exec, const QuantizedTensor& x_RI, const QuantizedTensor& w_EOI,
                                const ExpertRows& rows, const Tensor& y_RO) {
  constexpr const char* kOp = "grouped_matmul_fp8_forward";
  const int64_t R = x_RI.shape[0], I = x_RI.columns(), O = y_RO.extent(1);
  expect_rows(kOp, rows, R);
  expect_quantized(kOp, "x", x_RI, Tiling::row_tiles, {R, I});
  expect_quantized(kOp, "w", w_EOI, Tiling::blocks, {rows.experts, O, I});
  expect_shape(kOp, "y", y_RO, {R, O});
  launch(exec, kOp, flops_of(R, I, O), slot(exec).grouped_forward, x_RI, w_EOI, rows, y_RO);
}

void grouped_matmul_fp8_backward_input(Exec& exec, const QuantizedTensor& dy_RO, const QuantizedTensor& w_EOI,
                                       const ExpertRows& rows, const Tensor& dx_RI, bool accumulate) {
  constexpr const char* kOp = "grouped_matmul_fp8_backward_input";
  const int64_t R = dy_RO.shape[0], I = dx_RI.extent(1), O = dy_RO.columns();
  expect_rows(kOp, rows, R);
  expect_quantized(kOp, "dy", dy_RO, Tiling::row_tiles, {R, O});
  expect_quantized(kOp, "w", w_EOI, Tiling::blocks, {rows.experts, O, I});
  expect_shape(kOp, "dx", dx_RI, {R, I});
  launch(exec, kOp, flops_of(R, I, O), slot(exec).grouped_backward_input, dy_RO, w_EOI, rows, dx_RI,
         accumulate);
}

void grouped_matmul_fp8_backward_weight(Exec& exec, const QuantizedTensor& dy_RO, const QuantizedTensor& x_RI,
                                        const ExpertRows& rows, const Tensor& dw_EOI) {
  constexpr const char* kOp = "grouped_matmul_fp8_backward_weight";
  const int64_t I = x_RI.columns(), O = dw_EOI.extent(1);
  expect_gradient_operands(kOp, dy_RO, x_RI, rows, O);
  expect_shape(kOp, "dw", dw_EOI, {rows.experts, O, I});
  launch(exec, kOp, flops_of(x_RI.shape[0], I, O), slot(exec).grouped_backward_weight, dy_RO, x_RI, rows,
         dw_EOI);
}

}  // namespace moray
