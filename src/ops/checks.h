// Argument checks of ops: a wrong shape is a mistake of the program, not of its user.
#pragma once

#include "ops/rows.h"

namespace moray {

inline void expect_shape(const char* op, const char* name, const Tensor& tensor, Shape shape) {
  MORAY_CHECK(tensor.defined() && tensor.shape() == shape, "[{}] {} is {}, expected {}", op, name,
              tensor.defined() ? tensor.shape().to_string() : "undefined", shape.to_string());
}

inline void expect_dtype(const char* op, const char* name, const Tensor& tensor, DType dtype) {
  MORAY_CHECK(tensor.dtype() == dtype, "[{}] {} is {}, expected {}", op, name, dtype_name(tensor.dtype()),
              dtype_name(dtype));
}

inline void expect_rows(const char* op, const SampleRows& rows, int64_t total) {
  MORAY_CHECK(rows.rows() == total && rows.gradient_groups >= 1, "[{}] {} samples of {} rows, tensor has {}",
              op, rows.samples, rows.rows_per_sample, total);
}

inline void expect_rows(const char* op, const ExpertRows& rows, int64_t total) {
  expect_shape(op, "offsets", rows.offsets_ES, {rows.experts * rows.samples + 1});
  MORAY_CHECK(rows.end(rows.experts - 1) == total && rows.begin(0) == 0, "[{}] {} expert rows, tensor has {}",
              op, rows.end(rows.experts - 1), total);
}

}  // namespace moray
