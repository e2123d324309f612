// Quantized matrices: narrow codes and the scales they are multiplied with.
//
// T rows (tokens, or a weight's outputs), D columns, N row blocks.
#pragma once

#include "tensor/tensor.h"

namespace moray {

enum class CodeFormat : uint8_t { f8_e4m3, f8_e5m2, f12_e5m6 };
std::string_view code_format_name(CodeFormat format);  // as in the enum

// Calls body(Format{}) with the type of base/narrow_float.h.
template <class Body>
auto for_code_format(CodeFormat format, const Body& body) {
  switch (format) {
    case CodeFormat::f8_e5m2:
      return body(e5m2{});
    case CodeFormat::f12_e5m6:
      return body(e5m6{});
    default:
      return body(e4m3{});
  }
}

// Which elements share a scale. Tiles and blocks at the right and lower edge are smaller where 128 does not
// divide.
enum class Tiling : uint8_t {
  row_tiles,    // 1×128: 128 columns of a row. Scales [T, ceil(D/128)]. Activations in fprop and dgrad
  token_tiles,  // 128×1: a row block of one column. Scales [N, D]. Activations in wgrad
  blocks,       // 128×128. Scales [ceil(T/128), ceil(D/128)], for a stack of E matrices [E, ...]. Weights
};
constexpr int64_t kTile = 128;

enum class ScaleFormat : uint8_t { fp32, power_of_two };

// Codes of a matrix [T, D], or of a stack of weights [E, T, D] (tiling `blocks` only), in row-major order
// whatever the tiling. Scales are f32; an element is decode(code)·scale. Copies and slices share storage, as
// Tensor's do.
struct QuantizedTensor {
  Shape shape;
  CodeFormat format = CodeFormat::f8_e4m3;
  Tiling tiling = Tiling::row_tiles;
  ScaleFormat scale_format = ScaleFormat::fp32;
  Tensor codes;   // f8_e4m3 or f8_e5m2 of `shape`; e5m6: u8 [T, ceil(3D/2)], see load_code
  Tensor scales;  // f32, as the tiling says
  // Token tiles: i32 [N + 1], block n holds the rows [row_blocks[n], row_blocks[n + 1]). These are the
  // k-blocks of the weight gradient (docs/numerics.md): at most 128 rows, none across two samples or two
  // experts, in order, no gaps.
  Tensor row_blocks;

  // `row_blocks` for token tiles alone. Their scales get memory for `most_row_blocks` where that is more:
  // tensors of the same number of rows then take the same memory however the blocks fall.
  static QuantizedTensor empty(Allocator& allocator, Shape shape, CodeFormat format, Tiling tiling,
                               ScaleFormat scale_format, const Tensor& row_blocks = {},
                               int64_t most_row_blocks = 0);

  int64_t rows_per_matrix() const { return shape[-2]; }
  int64_t columns() const { return shape[-1]; }
  int64_t matrices() const { return shape.rank() == 3 ? shape[0] : 1; }
  int64_t column_tiles() const { return (columns() + kTile - 1) / kTile; }
  int64_t row_tiles() const { return (rows_per_matrix() + kTile - 1) / kTile; }
  size_t row_bytes() const;  // of codes
  size_t bytes() const;      // of codes, scales and row blocks: what keeping it costs

  // Rows [begin, end), sharing storage. Row tiles: any rows. Token tiles: from a row block's begin to
  // another's end (the list of blocks is written anew, counted from `begin`, into memory of `allocator`).
  // Blocks: row_slice is refused.
  QuantizedTensor row_slice(int64_t begin, int64_t end, Allocator& allocator) const;
  QuantizedTensor matrix(int64_t index) const;  // one of a stack
};

// Code i of a row. E5M6 packs codes 2j and 2j+1 into the bytes 3j to 3j+2, low bits first: c0 & 255,
// c0 >> 8 | (c1 & 15) << 4, c1 >> 4. A row of an odd number of codes ends with two bytes, the upper half of
// the last zero.
template <class Format>
Format load_code(const std::byte* row, int64_t i) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(row);
  if constexpr (sizeof(Format) == 1) {
    return {bytes[i]};
  } else {
    const uint8_t* pair = bytes + i / 2 * 3;
    return {static_cast<uint16_t>(i % 2 == 0 ? pair[0] | (pair[1] & 15) << 8 : pair[1] >> 4 | pair[2] << 4)};
  }
}

// Stores code i; a row's codes are to be stored in ascending order.
template <class Format>
void store_code(std::byte* row, int64_t i, Format code) {
  auto* bytes = reinterpret_cast<uint8_t*>(row);
  if constexpr (sizeof(Format) == 1) {
    bytes[i] = code.bits;
  } else {
    uint8_t* pair = bytes + i / 2 * 3;
    if (i % 2 == 0) {
      pair[0] = static_cast<uint8_t>(code.bits);
      pair[1] = static_cast<uint8_t>(code.bits >> 8);
    } else {
      pair[1] = static_cast<uint8_t>(pair[1] | (code.bits & 15) << 4);
      pair[2] = static_cast<uint8_t>(code.bits >> 4);
    }
  }
}

}  // namespace moray
