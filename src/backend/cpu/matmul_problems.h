// The three directions of a linear layer as problems of the blocked matrix product.
#pragma once

#include "backend/cpu/matmul_kernel.h"

namespace moray::cpu {

inline MatmulOperand matmul_operand(const Tensor& matrix, bool k_outer) {
  MORAY_CHECK(matrix.dtype() == DType::f32 || matrix.dtype() == DType::bf16, "matrix product of {}",
              dtype_name(matrix.dtype()));
  const bool panels = matrix.layout() == TensorLayout::panels;
  MORAY_CHECK(!panels || !k_outer, "matrix product along the rows of panels");
  return {matrix.raw(), matrix.dtype(), matrix.extent(1), k_outer, panels};
}

inline MatmulOutput matmul_output(const Tensor& matrix, bool accumulate) {
  MORAY_CHECK(matrix.dtype() == DType::f32 || matrix.dtype() == DType::bf16, "matrix product into {}",
              dtype_name(matrix.dtype()));
  return {matrix.raw(), matrix.dtype(), matrix.extent(1), accumulate};
}

// y = x · wᵀ, blocks over I.
inline MatmulProblem forward_problem(const Tensor& x_TI, const Tensor& w_OI, const Tensor& y_TO,
                                     std::span<const KBlock> blocks) {
  return {matmul_operand(x_TI, false),
          matmul_operand(w_OI, false),
          matmul_output(y_TO, false),
          x_TI.extent(0),
          w_OI.extent(0),
          blocks};
}

// dx (+)= dy · w, blocks over O.
inline MatmulProblem backward_input_problem(const Tensor& dy_TO, const Tensor& w_OI, const Tensor& dx_TI,
                                            bool accumulate, std::span<const KBlock> blocks) {
  return {matmul_operand(dy_TO, false),
          matmul_operand(w_OI, true),
          matmul_output(dx_TI, accumulate),
          dy_TO.extent(0),
          w_OI.extent(1),
          blocks};
}

// dw += dyᵀ · x, blocks over T.
inline MatmulProblem backward_weight_problem(const Tensor& dy_TO, const Tensor& x_TI, const Tensor& dw_OI,
                                             std::span<const KBlock> blocks) {
  return {matmul_operand(dy_TO, true),
          matmul_operand(x_TI, true),
          matmul_output(dw_OI, true),
          dy_TO.extent(1),
          x_TI.extent(1),
          blocks};
}

}  // namespace moray::cpu
