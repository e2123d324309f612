// From a tensor's dtype to a template over its element type.
#pragma once

#include "tensor/tensor.h"

namespace moray::cpu {

// body(T{}) with T = float or bf16, as `tensor` holds. Vector code belongs into a function that body calls:
// a lambda is compiled without the instruction set of the file around it.
template <class Body>
void for_element_type(const Tensor& tensor, const Body& body) {
  if (tensor.dtype() == DType::bf16) return body(bf16{});
  MORAY_CHECK(tensor.dtype() == DType::f32, "the cpu device computes on f32 and bf16, not {}",
              dtype_name(tensor.dtype()));
  body(float{});
}

// Whether a tensor is larger than the caches and its rows are whole lines: then it is best written past them.
bool beyond_caches(const Tensor& tensor);

}  // namespace moray::cpu
