#include "tensor/quantized.h"

namespace moray {

namespace {

Shape scale_shape(const QuantizedTensor& q) {
  switch (q.tiling) {
    case Tiling::row_tiles:
      return {q.rows_per_matrix(), q.column_tiles()};
    case Tiling::token_tiles:
      return {q.row_blocks.extent(0) - 1, q.columns()};
    case Tiling::blocks:
      break;
  }
  if (q.shape.rank() == 2) return {q.row_tiles(), q.column_tiles()};
  return {q.shape[0], q.row_tiles(), q.column_tiles()};
}

Tensor empty_codes(Allocator& allocator, const QuantizedTensor& q) {
  if (q.format == CodeFormat::f8_e4m3) return Tensor::empty(allocator, q.shape, DType::f8_e4m3);
  if (q.format == CodeFormat::f8_e5m2) return Tensor::empty(allocator, q.shape, DType::f8_e5m2);
  const auto bytes = static_cast<int64_t>(q.row_bytes());
  if (q.shape.rank() == 2) return Tensor::empty(allocator, {q.shape[0], bytes}, DType::u8);
  return Tensor::empty(allocator, {q.shape[0], q.shape[1], bytes}, DType::u8);
}

void check_row_blocks(const Tensor& row_blocks, int64_t rows) {
  MORAY_CHECK(row_blocks.defined() && row_blocks.rank() == 1 && row_blocks.extent(0) >= 1);
  const std::span<const int32_t> at = row_blocks.span<int32_t>();
  for (size_t n = 0; n + 1 < at.size(); ++n)
    MORAY_CHECK(at[n] < at[n + 1] && at[n + 1] - at[n] <= kTile, "row block {} is [{}, {})", n, at[n],
                at[n + 1]);
  MORAY_CHECK(at.front() == 0 && at.back() == rows, "row blocks of [{}, {}), {} rows", at.front(), at.back(),
              rows);
}

}  // namespace

std::string_view code_format_name(CodeFormat format) {
  switch (format) {
    case CodeFormat::f8_e4m3:
      return "f8_e4m3";
    case CodeFormat::f8_e5m2:
      return "f8_e5m2";
    case CodeFormat::f12_e5m6:
      return "f12_e5m6";
  }
  return "?";
}

QuantizedTensor QuantizedTensor::empty(Allocator& allocator, Shape shape, CodeFormat format, Tiling tiling,
                                       ScaleFormat scale_format, const Tensor& row_blocks,
                                       int64_t most_row_blocks) {
  MORAY_CHECK(shape.rank() == 2 || (shape.rank() == 3 && tiling == Tiling::blocks), "quantized {}",
              shape.to_string());
  QuantizedTensor q{shape, format, tiling, scale_format, {}, {}, row_blocks};
  if (tiling == Tiling::token_tiles)
    check_row_blocks(row_blocks, shape[0]);
  else
    MORAY_CHECK(!row_blocks.defined(), "row blocks are of token tiles");
  q.codes = empty_codes(allocator, q);
  const Shape scales = scale_shape(q);
  q.scales = most_row_blocks <= scales[0]
                 ? Tensor::empty(allocator, scales, DType::f32)
                 : Tensor::empty(allocator, {most_row_blocks, q.columns()}, DType::f32).rows(0, scales[0]);
  return q;
}

size_t QuantizedTensor::row_bytes() const {
  const auto width = static_cast<size_t>(columns());
  return format == CodeFormat::f12_e5m6 ? (3 * width + 1) / 2 : width;
}

size_t QuantizedTensor::bytes() const {
  return codes.bytes() + scales.bytes() + (row_blocks.defined() ? row_blocks.bytes() : 0);
}

QuantizedTensor QuantizedTensor::row_slice(int64_t begin, int64_t end, Allocator& allocator) const {
  MORAY_CHECK(shape.rank() == 2 && tiling != Tiling::blocks, "rows of 128×128 blocks");
  QuantizedTensor slice = *this;
  slice.shape = {end - begin, columns()};
  slice.codes = codes.rows(begin, end);
  if (tiling == Tiling::row_tiles) {
    slice.scales = scales.rows(begin, end);
    return slice;
  }
  const std::span<const int32_t> at = row_blocks.span<int32_t>();
  const auto first = std::lower_bound(at.begin(), at.end(), begin),
             last = std::lower_bound(first, at.end(), end);
  MORAY_CHECK(first != at.end() && *first == begin && last != at.end() && *last == end,
              "rows [{}, {}) cut a row block", begin, end);
  slice.scales = scales.rows(first - at.begin(), last - at.begin());
  slice.row_blocks = Tensor::empty(allocator, {last - first + 1}, DType::i32);
  std::transform(first, last + 1, slice.row_blocks.data<int32_t>(),
                 [&](int32_t row) { return row - static_cast<int32_t>(begin); });
  return slice;
}

QuantizedTensor QuantizedTensor::matrix(int64_t index) const {
  MORAY_CHECK(shape.rank() == 3);
  QuantizedTensor one = *this;
  one.shape = {shape[1], shape[2]};
  one.codes = codes.row(index);
  one.scales = scales.row(index);
  return one;
}

}  // namespace moray
