#include "tensor/tensor.h"

#include <cstring>

#include "tensor/panels.h"

namespace moray {

Shape::Shape(std::initializer_list<int64_t> extents) : rank_(static_cast<int>(extents.size())) {
  MORAY_CHECK(extents.size() <= kMaxRank);
  std::copy(extents.begin(), extents.end(), extents_.begin());
}

int64_t Shape::elements() const {
  int64_t product = 1;
  for (int64_t extent : extents()) product *= extent;
  return product;
}

std::string Shape::to_string() const {
  std::string text = "[";
  for (int axis = 0; axis < rank_; ++axis) text += (axis ? ", " : "") + std::to_string((*this)[axis]);
  return text + "]";
}

namespace {
// No machine has this much memory; below it, products of extents and element sizes stay within 64 bits.
constexpr int64_t kMostElements = int64_t{1} << 56;

void expect_countable(const Shape& shape) {
  int64_t product = 1;
  for (int64_t extent : shape.extents())
    if (extent < 0 || __builtin_mul_overflow(product, extent, &product) || product > kMostElements)
      fail("out of memory: a tensor of shape {}", shape.to_string());
}
}  // namespace

Tensor Tensor::empty(Allocator& allocator, Shape shape, DType dtype) {
  expect_countable(shape);
  Tensor tensor;
  tensor.shape_ = shape;
  tensor.dtype_ = dtype;
  tensor.block_ = allocator.allocate(tensor.bytes());
  return tensor;
}

Tensor Tensor::shape_only(Shape shape, DType dtype) {
  expect_countable(shape);
  Tensor tensor;
  tensor.shape_ = shape;
  tensor.dtype_ = dtype;
  return tensor;
}

Tensor Tensor::zeros(Allocator& allocator, Shape shape, DType dtype) {
  Tensor tensor = empty(allocator, shape, dtype);
  tensor.fill_zero();
  return tensor;
}

Tensor Tensor::rows(int64_t begin, int64_t end) const {
  MORAY_CHECK(rank() >= 1 && 0 <= begin && begin <= end && end <= extent(0), "rows [{}, {}) of {}", begin,
              end, shape_.to_string());
  MORAY_CHECK(
      layout_ == TensorLayout::rows || rank() > 2 || (begin % kPanelRows == 0 && end % kPanelRows == 0),
      "rows [{}, {}) of panels of {}", begin, end, kPanelRows);
  const size_t row_bytes = extent(0) == 0 ? 0 : bytes() / static_cast<size_t>(extent(0));
  Tensor slice = *this;
  slice.byte_offset_ += static_cast<size_t>(begin) * row_bytes;
  switch (rank()) {
    case 1:
      slice.shape_ = {end - begin};
      break;
    case 2:
      slice.shape_ = {end - begin, extent(1)};
      break;
    case 3:
      slice.shape_ = {end - begin, extent(1), extent(2)};
      break;
    default:
      slice.shape_ = {end - begin, extent(1), extent(2), extent(3)};
      break;
  }
  return slice;
}

Tensor Tensor::row(int64_t index) const {
  const Tensor slice = rows(index, index + 1);
  switch (rank()) {
    case 1:
      return slice.reshape({});
    case 2:
      return slice.reshape({extent(1)});
    case 3:
      return slice.reshape({extent(1), extent(2)});
    default:
      return slice.reshape({extent(1), extent(2), extent(3)});
  }
}

Tensor Tensor::reshape(Shape shape) const {
  MORAY_CHECK(shape.elements() == elements(), "{} to {}", shape_.to_string(), shape.to_string());
  Tensor view = *this;
  view.shape_ = shape;
  return view;
}

Tensor Tensor::lying_in(TensorLayout layout) const {
  MORAY_CHECK(layout == TensorLayout::rows || fits_panels(shape_, dtype_), "{} {} in panels",
              dtype_name(dtype_), shape_.to_string());
  Tensor view = *this;
  view.layout_ = layout;
  return view;
}

void Tensor::fill_zero() const {
  std::memset(raw(), 0, bytes());
}

void Tensor::copy_from(const Tensor& other) const {
  MORAY_CHECK(shape_ == other.shape_ && dtype_ == other.dtype_ && layout_ == other.layout_, "{} from {}",
              shape_.to_string(), other.shape_.to_string());
  std::memcpy(raw(), other.raw(), bytes());
}

}  // namespace moray
