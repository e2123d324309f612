#include "ops/elementwise.h"

#include "ops/checks.h"

namespace moray {

namespace {
const ElementwiseKernels& slot(const Exec& exec) {
  return kernels<ElementwiseKernels>(exec.device);
}
}  // namespace

void add(Exec& exec, const Tensor& a, const Tensor& b, const Tensor& out) {
  expect_shape("add", "b", b, a.shape());
  expect_shape("add", "out", out, a.shape());
  launch(exec, "add", 0, slot(exec).add, a, b, out);
}

void concat_columns(Exec& exec, const Tensor& a_TA, const Tensor& b_TB, const Tensor& out) {
  expect_shape("concat_columns", "b", b_TB, {a_TA.extent(0), b_TB.extent(1)});
  expect_shape("concat_columns", "out", out, {a_TA.extent(0), a_TA.extent(1) + b_TB.extent(1)});
  launch(exec, "concat_columns", 0, slot(exec).concat_columns, a_TA, b_TB, out);
}

void split_columns(Exec& exec, const Tensor& x, const Tensor& a_TA, const Tensor& b_TB) {
  expect_shape("split_columns", "b", b_TB, {a_TA.extent(0), b_TB.extent(1)});
  expect_shape("split_columns", "x", x, {a_TA.extent(0), a_TA.extent(1) + b_TB.extent(1)});
  launch(exec, "split_columns", 0, slot(exec).split_columns, x, a_TA, b_TB);
}

void convert(Exec& exec, const Tensor& from, const Tensor& to) {
  expect_shape("convert", "to", to, from.shape());
  launch(exec, "convert", 0, kernels<ElementwiseKernels>(exec.device).convert, from, to);
}

}  // namespace moray
