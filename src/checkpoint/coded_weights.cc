#include "checkpoint/coded_weights.h"

#include "checkpoint/fp8_weights.h"
#include "checkpoint/int_weights.h"
#include "tensor/int_rows.h"
#include "tensor/quantized.h"

namespace moray {

namespace {

bool is_integer(DType dtype) {
  return dtype == DType::i8 || dtype == DType::u8;
}

Shape with_matrix(const Shape& shape, int64_t rows, int64_t columns) {
  return shape.rank() == 3 ? Shape{shape[0], rows, columns} : Shape{rows, columns};
}

}  // namespace

bool has_scales(DType dtype) {
  return dtype == DType::f8_e4m3 || is_integer(dtype);
}

std::string scales_name(std::string_view weight_name, DType dtype) {
  return is_integer(dtype) ? int_scale_name(weight_name) : fp8_scale_name(weight_name);
}

Shape stored_shape(const Shape& matrix, DType dtype) {
  return dtype == DType::u8 ? with_matrix(matrix, matrix[-2], int4_row_bytes(matrix[-1])) : matrix;
}

Shape scales_shape(const Shape& matrix, DType dtype) {
  const int64_t rows = is_integer(dtype) ? matrix[-2] : (matrix[-2] + kTile - 1) / kTile;
  return with_matrix(matrix, rows, int_row_scales(matrix[-1]));
}

}  // namespace moray
