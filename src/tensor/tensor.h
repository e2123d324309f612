// Tensor: a contiguous block of elements with a shape and a type, sharing its storage with its copies and row
// slices.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

#include "base/dtype.h"
#include "base/error.h"
#include "tensor/allocator.h"

namespace moray {

// Up to four extents, kept inline so that a shape costs no allocation.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> extents);

  int rank() const { return rank_; }
  int64_t operator[](int axis) const { return extents_[static_cast<size_t>(axis < 0 ? axis + rank_ : axis)]; }
  int64_t elements() const;
  bool operator==(const Shape& other) const = default;
  std::string to_string() const;  // "[128, 64]"
  std::span<const int64_t> extents() const { return {extents_.data(), static_cast<size_t>(rank_)}; }

 private:
  static constexpr size_t kMaxRank = 4;
  std::array<int64_t, kMaxRank> extents_{};
  int rank_ = 0;
};

// How the elements of a matrix, or of each matrix of a stack, lie: row by row, or in the panels of
// tensor/panels.h.
enum class TensorLayout : uint8_t { rows, panels };

class Tensor {
 public:
  Tensor() = default;  // no storage; defined() is false
  static Tensor empty(Allocator& allocator, Shape shape, DType dtype);
  static Tensor zeros(Allocator& allocator, Shape shape, DType dtype);
  static Tensor shape_only(Shape shape, DType dtype);  // no storage either: what a tensor will be

  bool defined() const { return block_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  int64_t extent(int axis) const { return shape_[axis]; }  // negative axes count from the end
  int64_t elements() const { return shape_.elements(); }
  DType dtype() const { return dtype_; }
  TensorLayout layout() const { return layout_; }
  size_t bytes() const { return static_cast<size_t>(elements()) * dtype_bytes(dtype_); }

  // Elements in row-major order: refused for panels, whose readers take raw(). Constness is the holder's
  // promise, not the storage's: slices share it.
  template <class T>
  T* data() const {
    MORAY_CHECK(dtype_of<T>::value == dtype_, "asked for {}, tensor is {}", dtype_name(dtype_of<T>::value),
                dtype_name(dtype_));
    MORAY_CHECK(layout_ == TensorLayout::rows, "{} {} lies in panels", dtype_name(dtype_),
                shape_.to_string());
    return reinterpret_cast<T*>(raw());
  }
  template <class T>
  std::span<T> span() const {
    return {data<T>(), static_cast<size_t>(elements())};
  }
  std::byte* raw() const { return block_->data() + byte_offset_; }

  // [begin, end) of axis 0, sharing storage; of a matrix in panels, whole panels.
  Tensor rows(int64_t begin, int64_t end) const;
  Tensor row(int64_t index) const;             // axis 0 dropped
  Tensor reshape(Shape shape) const;           // same elements
  Tensor lying_in(TensorLayout layout) const;  // the same storage, whose elements were put in that order
  void fill_zero() const;
  void copy_from(const Tensor& other) const;  // same shape and dtype

 private:
  BlockPtr block_;
  size_t byte_offset_ = 0;
  Shape shape_;
  DType dtype_ = DType::f32;
  TensorLayout layout_ = TensorLayout::rows;
};

}  // namespace moray
