#include "tensor/panels.h"

#include <cstring>
#include <vector>

namespace moray {

bool fits_panels(const Shape& shape, DType dtype) {
  if (shape.rank() < 2 || shape[-2] % kPanelRows != 0) return false;
  if (dtype == DType::u8) return int4_row_columns(shape[-1]) % (2 * kInt4Group) == 0;
  return shape[-1] * static_cast<int64_t>(dtype_bytes(dtype)) % kPanelWordBytes == 0;
}

namespace {

// Some elements of each row, such as fill a line: read and written while they are in L1.
constexpr int64_t kTogether = 16;

// Rows of `count` elements, `row_bytes` apart, to lines of an element of each.
template <class Element>
void transpose(const std::byte* rows, int64_t row_bytes, int64_t count, std::byte* lines) {
  for (int64_t first = 0; first < count; first += kTogether) {
    const int64_t end = std::min(first + kTogether, count);
    for (int64_t row = 0; row < kPanelRows; ++row)
      for (int64_t i = first; i < end; ++i)
        std::memcpy(lines + (i * kPanelRows + row) * int64_t{sizeof(Element)},
                    rows + row * row_bytes + i * int64_t{sizeof(Element)}, sizeof(Element));
  }
}

// body(columns before, columns) for the blocks of a row of 4-bit codes.
template <class Body>
void for_int4_blocks(int64_t row_bytes, const Body& body) {
  const int64_t columns = int4_row_columns(row_bytes);
  for (int64_t k = 0; k < columns; k += kIntBlock) body(k, std::min(kIntBlock, columns - k));
}

void pack_int4_panel(const std::byte* rows, int64_t row_bytes, std::byte* panel) {
  const int64_t code_bytes = int4_row_columns(row_bytes) / 2;
  for_int4_blocks(row_bytes, [&](int64_t k, int64_t count) {
    transpose<uint32_t>(rows + k / 2, row_bytes, count / 8, panel);
    transpose<uint16_t>(rows + code_bytes + k / kInt4Group, row_bytes, count / (2 * kInt4Group),
                        panel + int4_panel_sub_scales(count));
    panel += kInt4PanelBlockBytes;
  });
}

}  // namespace

void pack_panels(std::byte* data, int64_t rows, int64_t row_bytes, DType dtype) {
  MORAY_CHECK(rows % kPanelRows == 0 && (dtype == DType::u8 || row_bytes % kPanelWordBytes == 0),
              "{} rows of {} bytes", rows, row_bytes);
  static thread_local std::vector<std::byte> copy;
  copy.resize(static_cast<size_t>(row_bytes * kPanelRows));
  for (int64_t row = 0; row < rows; row += kPanelRows, data += row_bytes * kPanelRows) {
    std::memcpy(copy.data(), data, copy.size());
    if (dtype == DType::u8)
      pack_int4_panel(copy.data(), row_bytes, data);
    else
      transpose<uint32_t>(copy.data(), row_bytes, row_bytes / kPanelWordBytes, data);
  }
}

void copy_int4_panel_row(const std::byte* panels, int64_t row, int64_t row_bytes, uint8_t* to) {
  const std::byte* block = panels + row / kPanelRows * kPanelRows * row_bytes;
  const int64_t lane = row % kPanelRows, code_bytes = int4_row_columns(row_bytes) / 2;
  for_int4_blocks(row_bytes, [&](int64_t k, int64_t count) {
    for (int64_t word = 0; word < count / 8; ++word)
      std::memcpy(to + k / 2 + word * 4, block + (word * kPanelRows + lane) * 4, 4);
    for (int64_t half = 0; half < count / (2 * kInt4Group); ++half)
      std::memcpy(to + code_bytes + k / kInt4Group + half * 2,
                  block + int4_panel_sub_scales(count) + (half * kPanelRows + lane) * 2, 2);
    block += kInt4PanelBlockBytes;
  });
}

}  // namespace moray
