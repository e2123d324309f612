// How a matrix [O, I] (or a stack of them) lies in a folder, by its dtype: f32 and bf16 as they are, f8_e4m3,
// i8 and u8 (4 bits) as codes with a tensor of FP32 scales beside them (checkpoint/fp8_weights.h,
// checkpoint/int_weights.h).
#pragma once

#include <string>
#include <string_view>

#include "tensor/tensor.h"

namespace moray {

bool has_scales(DType dtype);
std::string scales_name(std::string_view weight_name, DType dtype);

// Of the weight's own tensor, and of its scales'.
Shape stored_shape(const Shape& matrix, DType dtype);
Shape scales_shape(const Shape& matrix, DType dtype);

}  // namespace moray
