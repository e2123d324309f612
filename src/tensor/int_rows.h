// Weights of 8 and 4 bits: rows of integer codes, with an FP32 scale for each row and block of 128 columns.
//
// 8 bits: a code in [−127, 127] a column; an element is code · scale.
//
// 4 bits: columns come in groups of 32 (a row is a multiple of them), each with an integer sub-scale s in
// [1, 15] and a zero point z in [0, 15] of half steps; an element is s·(2q − 7 − z) · scale, q in [0, 15] its
// code, and s·(2q − 7 − z) an integer of magnitude below 346. A row of C columns is C/2 bytes of codes, then
// C/32 bytes s + 16·z. Byte j of a group's 16 holds the codes of its columns j (low bits) and 16 + j: 4.5
// bits a weight with the scales.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace moray {

constexpr int64_t kIntBlock = 128;  // columns of a scale
constexpr int64_t kInt4Group = 32;  // columns of a sub-scale

constexpr int64_t int_row_scales(int64_t columns) {
  return (columns + kIntBlock - 1) / kIntBlock;
}
constexpr int64_t int4_row_bytes(int64_t columns) {
  return columns / 2 + columns / kInt4Group;
}
constexpr int64_t int4_row_columns(int64_t bytes) {
  return bytes / 17 * kInt4Group;
}

struct Int4Group {
  int32_t sub_scale = 0, zero = 0;  // s, and 7 + z
  const uint8_t* codes = nullptr;   // 16 bytes
};
inline Int4Group int4_group(const uint8_t* row, int64_t columns, int64_t group) {
  const uint8_t packed = row[columns / 2 + group];
  return {packed & 15, 7 + (packed >> 4), row + group * (kInt4Group / 2)};
}
inline int32_t int4_code(const uint8_t* codes, int64_t column) {
  return column < kInt4Group / 2 ? codes[column] & 15 : codes[column - kInt4Group / 2] >> 4;
}
// s·(2q − 7 − z) of a column.
inline int32_t int4_element(const uint8_t* row, int64_t columns, int64_t column) {
  const Int4Group group = int4_group(row, columns, column / kInt4Group);
  return group.sub_scale * (2 * int4_code(group.codes, column % kInt4Group) - group.zero);
}

// A row of numbers as codes and scales of small squared error: some scales (and zero points) are tried, and
// the scale of the codes that came out best is their least squares'. A function of the row alone. False, with
// nothing of use written, when a number is not finite.
bool quantize_row_int8(std::span<const float> row, int8_t* codes, float* scales);
bool quantize_row_int4(std::span<const float> row, uint8_t* packed, float* scales);

// Activations: codes of 8 bits with a scale for each block of 128 columns. With amax a block's largest
// magnitude, its scale is max(amax / 127, 2⁻¹²⁶), a true division, and 1 where amax is 0; a code is x / scale
// to nearest even. A block with a number that is not finite has the scale NaN and codes 0, and so makes NaN
// of every product.
void quantize_activations_int8(std::span<const float> row, int8_t* codes, float* scales);

}  // namespace moray
