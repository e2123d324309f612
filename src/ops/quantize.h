// Quantization by tiles and blocks (tensor/quantized.h), back, and from one tiling to the other.
//
// T rows, D columns, N row blocks.
//
// The scale of a tile: with amax its largest |x| (found online, in this very tensor; what is not finite left
// out) and `largest` the format's largest number (448 for E4M3),
//   s = 1 where amax is 0, else max(amax / largest, 2⁻¹²⁶), a true division in f32;
//   power of two: this s rounded up to one.
// There is no floor under amax. The one under s keeps it a normal number, which FP32 rounds to 24 bits and
// not to a few: it is reached below amax = 5.3e-36 (E4M3).
//
// An element is round(x / s): the division rounds to f32 (not at all with a power of two), then to the
// format, to nearest even; what that first rounding lifts above the largest number saturates. NaN and
// infinity are counted and stay in the codes, as NaN or infinity; they are never made finite. Inputs are f32
// or bf16. A tile whose amax is within a factor of two of FP32's largest number may dequantize to infinity
// with power-of-two scales.
#pragma once

#include "ops/rows.h"
#include "tensor/quantized.h"

namespace moray {

// What quantizing met: the caller knows which layer, tensor and step it was.
struct NonFinite {
  int64_t nans = 0, infinities = 0;

  bool any() const { return nans > 0 || infinities > 0; }
  NonFinite& operator+=(const NonFinite& other) {
    nans += other.nans;
    infinities += other.infinities;
    return *this;
  }
};

struct QuantizeKernels {
  void (*quantize)(Exec&, const Tensor& x, const QuantizedTensor& q, NonFinite& found) = nullptr;
  void (*dequantize)(Exec&, const QuantizedTensor& q, const Tensor& x) = nullptr;
  void (*retile)(Exec&, const QuantizedTensor& q_TD, const QuantizedTensor& token_tiles_TD) = nullptr;
};

// Fills the codes and scales of q, whose shape is x's.
[[nodiscard]] NonFinite quantize(Exec&, const Tensor& x, const QuantizedTensor& q);

// x = decode(code) · s, rounded to f32; bf16: rounded once more. Exact in f32 with a
// power-of-two scale.
void dequantize(Exec&, const QuantizedTensor& q, const Tensor& x);

// From row tiles (1×128) to token tiles (128×1), as `quantize` would make them of the dequantized f32 matrix,
// to the bit.
//
// With power-of-two scales on both sides and one format, only a new scale s' larger than the old s can lose
// anything: a number |v| below s' times the format's smallest normal number (E4M3: 2⁻⁶) becomes subnormal and
// is rounded to a multiple of s' times the smallest subnormal one (E4M3: an error of at most 2⁻¹⁰·s', that is
// 2⁻¹⁷ of the new tile's largest element; E5M6: 2⁻²¹·s', 2⁻³⁵). Every other number keeps its value exactly:
// no second rounding. With FP32 scales every element is rounded a second time.
void retile(Exec&, const QuantizedTensor& q_TD, const QuantizedTensor& token_tiles_TD);

// Calls visit(begin, end) for the row blocks of token tiles: at most 128 rows, counted from the first row of
// each sample, or of each (expert, sample), in ascending order.
template <class Visit>
void for_row_blocks(int64_t begin, int64_t end, const Visit& visit) {
  for (; begin < end; begin += kTile) visit(begin, std::min(begin + kTile, end));
}
template <class Visit>
void for_row_blocks(const SampleRows& rows, const Visit& visit) {
  for (int64_t s = 0; s < rows.samples; ++s)
    for_row_blocks(s * rows.rows_per_sample, (s + 1) * rows.rows_per_sample, visit);
}
template <class Visit>
void for_row_blocks(const ExpertRows& rows, const Visit& visit) {
  for (int64_t cell = 0; cell < rows.experts * rows.samples; ++cell)
    for_row_blocks(rows.begin(0, cell), rows.begin(0, cell + 1), visit);
}

// The most row blocks that so many rows can have, however the router spreads them.
inline int64_t most_row_blocks(const SampleRows& rows) {
  return rows.samples * ((rows.rows_per_sample + kTile - 1) / kTile);
}
inline int64_t most_row_blocks(const ExpertRows& rows) {
  const int64_t cells = rows.experts * rows.samples, all = rows.begin(0, cells),
                filled = std::min(cells, all);
  return filled + (all - filled) / kTile;
}

// QuantizedTensor::row_blocks for these rows, in memory for the most that they can have.
template <class Rows>
Tensor row_blocks(Allocator& allocator, const Rows& rows) {
  const Tensor blocks = Tensor::empty(allocator, {most_row_blocks(rows) + 1}, DType::i32);
  int32_t* const first = blocks.data<int32_t>();
  int32_t* next = first;
  *next = 0;
  for_row_blocks(rows, [&](int64_t, int64_t end) { *++next = static_cast<int32_t>(end); });
  return blocks.rows(0, next - first + 1);
}

}  // namespace moray
