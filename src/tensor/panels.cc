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

// Of a row, the bytes that go as words; what follows goes as halves of words.
int64_t word_bytes(int64_t row_bytes, DType dtype) {
  return dtype == DType::u8 ? int4_row_columns(row_bytes) / 2 : row_bytes;
}

}  // namespace

void pack_panels(std::byte* data, int64_t rows, int64_t row_bytes, DType dtype) {
  const int64_t bytes = word_bytes(row_bytes, dtype);
  MORAY_CHECK(rows % kPanelRows == 0 && bytes % kPanelWordBytes == 0 && (row_bytes - bytes) % 2 == 0,
              "{} rows of {} bytes", rows, row_bytes);
  static thread_local std::vector<std::byte> copy;
  copy.resize(static_cast<size_t>(row_bytes * kPanelRows));
  for (int64_t row = 0; row < rows; row += kPanelRows, data += row_bytes * kPanelRows) {
    std::memcpy(copy.data(), data, copy.size());
    transpose<uint32_t>(copy.data(), row_bytes, bytes / kPanelWordBytes, data);
    transpose<uint16_t>(copy.data() + bytes, row_bytes, (row_bytes - bytes) / 2, data + bytes * kPanelRows);
  }
}

void copy_int4_panel_row(const std::byte* panels, int64_t row, int64_t row_bytes, uint8_t* to) {
  const int64_t bytes = word_bytes(row_bytes, DType::u8);
  const std::byte* panel = panels + row / kPanelRows * kPanelRows * row_bytes;
  for (int64_t i = 0; i < bytes; i += kPanelWordBytes)
    std::memcpy(to + i, panel + i * kPanelRows + row % kPanelRows * kPanelWordBytes, kPanelWordBytes);
  for (int64_t i = bytes; i < row_bytes; i += 2)
    std::memcpy(to + i, panel + i * kPanelRows + row % kPanelRows * 2, 2);
}

}  // namespace moray
