// From a tensor's dtype to a template over its element type.
#pragma once

#include <vector>

#include "ops/weight_matmul.h"
#include "tensor/panels.h"

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

// Element (row, column) of a matrix in rows or panels, as they lie.
template <class T>
T stored_element(const Tensor& matrix, int64_t row, int64_t column) {
  const int64_t columns = matrix.extent(1);
  const int64_t at = matrix.layout() == TensorLayout::rows
                         ? row * columns + column
                         : panel_index(row, column, columns, int64_t{sizeof(T)});
  return matrix.lying_in(TensorLayout::rows).data<T>()[at];
}

// Of an integer weight: what its scale multiplies.
inline int32_t weight_integer(const StoredWeight& w, int64_t row, int64_t column) {
  if (w.values_OI.dtype() == DType::i8) return stored_element<int8_t>(w.values_OI, row, column);
  const int64_t bytes = w.values_OI.extent(1);
  if (w.values_OI.layout() == TensorLayout::rows)
    return int4_element(w.values_OI.data<uint8_t>() + row * bytes, w.inputs(), column);
  std::vector<uint8_t> codes(static_cast<size_t>(bytes));
  copy_int4_panel_row(w.values_OI.raw(), row, bytes, codes.data());
  return int4_element(codes.data(), w.inputs(), column);
}

// What a stored weight holds at (row, column) without its scale.
inline float weight_value(const StoredWeight& w, int64_t row, int64_t column) {
  if (w.is_integer()) return static_cast<float>(weight_integer(w, row, column));
  if (w.values_OI.dtype() == DType::bf16) return to_float(stored_element<bf16>(w.values_OI, row, column));
  if (w.values_OI.dtype() == DType::f32) return stored_element<float>(w.values_OI, row, column);
  return to_float(stored_element<e4m3>(w.values_OI, row, column));
}

// The scale of its block.
inline float weight_scale(const StoredWeight& w, int64_t row, int64_t column) {
  if (w.is_integer()) return stored_element<float>(w.scales, row, column / kIntBlock);
  return w.scales.data<float>()[(w.first_row + row) / kTile * w.scales.extent(1) + column / kTile];
}

// An element, rounded to FP32.
template <class T>
T weight_element(const StoredWeight& w, int64_t row, int64_t column) {
  const float value = weight_value(w, row, column);
  return static_cast<T>(w.scales.defined() ? value * weight_scale(w, row, column) : value);
}

}  // namespace moray::reference
