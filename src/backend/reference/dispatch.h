// From a tensor's dtype to a template over its element type.
#pragma once

#include <vector>

#include "ops/weight_matmul.h"

namespace moray::reference {

// body(T{}) with T = float or double, as `tensor` holds.
template <class Body>
void for_real_type(const Tensor& tensor, const Body& body) {
  if (tensor.dtype() == DType::f64) return body(double{});
  MORAY_CHECK(tensor.dtype() == DType::f32, "the reference device computes in f32 and f64, not {}",
              dtype_name(tensor.dtype()));
  body(float{});
}

// body(T{}) with the type that a product accumulates in: double for f64 outputs, else float.
template <class Body>
void for_sum_type(const Tensor& output, const Body& body) {
  if (output.dtype() == DType::f64) return body(double{});
  body(float{});
}

// The elements of a tensor as T: the tensor's own where the types agree, else a widened copy of its bf16 or
// f32 ones.
template <class T>
class Elements {
 public:
  explicit Elements(const Tensor& tensor) : tensor_(tensor) {
    if (tensor.dtype() == dtype_of<T>::value) {
      data_ = tensor.data<T>();
      return;
    }
    copy_.reserve(static_cast<size_t>(tensor.elements()));
    if (tensor.dtype() == DType::bf16) {
      for (bf16 x : tensor.span<bf16>()) copy_.push_back(static_cast<T>(to_float(x)));
    } else {
      for (float x : tensor.span<float>()) copy_.push_back(static_cast<T>(x));
    }
    data_ = copy_.data();
  }
  Elements(const Elements&) = delete;
  Elements& operator=(const Elements&) = delete;

  T* data() { return data_; }

  // For outputs: rounds the copy of a bf16 tensor back into it, once, at the end.
  void store() {
    if (tensor_.dtype() == dtype_of<T>::value) return;
    const std::span<bf16> to = tensor_.template span<bf16>();
    for (size_t i = 0; i < to.size(); ++i) to[i] = to_bf16(static_cast<float>(copy_[i]));
  }

 private:
  Tensor tensor_;
  std::vector<T> copy_;
  T* data_ = nullptr;
};

// Of an integer weight: what its scale multiplies.
inline int32_t weight_integer(const StoredWeight& w, int64_t row, int64_t column) {
  const int64_t stride = w.values_OI.extent(1);
  if (w.values_OI.dtype() == DType::i8) return w.values_OI.data<int8_t>()[row * stride + column];
  return int4_element(w.values_OI.data<uint8_t>() + row * stride, w.inputs(), column);
}

// An element of a stored weight.
template <class T>
T weight_element(const StoredWeight& w, int64_t row, int64_t column) {
  const int64_t at = row * w.inputs() + column;
  if (w.is_integer())
    return static_cast<T>(static_cast<float>(weight_integer(w, row, column)) *
                          w.scales.data<float>()[row * w.scales.extent(1) + column / kIntBlock]);
  if (w.values_OI.dtype() == DType::bf16) return static_cast<T>(to_float(w.values_OI.data<bf16>()[at]));
  if (w.values_OI.dtype() == DType::f32) return static_cast<T>(w.values_OI.data<float>()[at]);
  const int64_t block = (w.first_row + row) / kTile * w.scales.extent(1) + column / kTile;
  return static_cast<T>(to_float(w.values_OI.data<e4m3>()[at]) * w.scales.data<float>()[block]);
}

}  // namespace moray::reference
