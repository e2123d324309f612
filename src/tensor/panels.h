// Panels: the order in which a product of few rows reads a weight [O, I] from memory in one direction, with
// vector lanes over outputs.
//
// A panel is 16 rows, as many bytes as they are. It is a list of cache lines in ascending column; word w of a
// row (32 bits: one f32, two bf16, four codes of 8 bits or eight of 4) is word w of the lane of that row:
//
//   row-major   row 0: a0 a1 a2 ...        panel   line 0: a0 b0 c0 ... p0
//               row 1: b0 b1 b2 ...                line 1: a1 b1 c1 ... p1
//
// Rows of 4-bit codes (tensor/int_rows.h; of a multiple of 64 columns) go block by block of 128 columns: 16
// lines of words of codes, then a line of sub-scales, two halves of 16 bits of two groups each. A last block
// of 64 columns is half as long.
#pragma once

#include "tensor/int_rows.h"
#include "tensor/tensor.h"

namespace moray {

constexpr int64_t kPanelRows = 16;
constexpr int64_t kPanelWordBytes = 4;
constexpr int64_t kPanelLineBytes = kPanelRows * kPanelWordBytes;

// Bytes of a block of 128 columns of 4-bit codes, and where in it, or in a last shorter one of `count`
// columns, its sub-scales begin.
constexpr int64_t kInt4PanelBlockBytes = 17 * kPanelLineBytes;
constexpr int64_t int4_panel_sub_scales(int64_t count) {
  return count / 8 * kPanelLineBytes;
}

// Whether matrices of that shape can lie in panels: whole ones, of whole words.
bool fits_panels(const Shape& shape, DType dtype);

// Row-major rows of `row_bytes` into panels, in place; `rows` is a multiple of 16. u8 rows are those of 4-bit
// codes.
void pack_panels(std::byte* data, int64_t rows, int64_t row_bytes, DType dtype);

// Row `row` of 4-bit codes in panels, as tensor/int_rows.h has it.
void copy_int4_panel_row(const std::byte* panels, int64_t row, int64_t row_bytes, uint8_t* to);

// Where element (row, column) of a matrix in panels lies, counted in elements of `element_bytes`.
inline int64_t panel_index(int64_t row, int64_t column, int64_t columns, int64_t element_bytes) {
  const int64_t in_word = kPanelWordBytes / element_bytes;
  return row / kPanelRows * kPanelRows * columns +
         (column / in_word * kPanelRows + row % kPanelRows) * in_word + column % in_word;
}

}  // namespace moray
