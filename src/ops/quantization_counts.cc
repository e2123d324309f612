#include "ops/quantization_counts.h"

#include <cmath>
#include <vector>

namespace moray {

namespace {

// The scale of an element, whatever the tiling.
class ScaleOf {
 public:
  explicit ScaleOf(const QuantizedTensor& q) : q_(q), scales_(q.scales.data<float>()) {
    if (q.tiling != Tiling::token_tiles) return;
    const std::span<const int32_t> at = q.row_blocks.span<int32_t>();
    for (size_t n = 0; n + 1 < at.size(); ++n)
      block_of_row_.insert(block_of_row_.end(), static_cast<size_t>(at[n + 1] - at[n]),
                           static_cast<int64_t>(n));
  }

  float operator()(int64_t row, int64_t column) const {
    const int64_t tiles = q_.column_tiles();
    switch (q_.tiling) {
      case Tiling::row_tiles:
        return scales_[row * tiles + column / kTile];
      case Tiling::token_tiles:
        return scales_[block_of_row_[static_cast<size_t>(row)] * q_.columns() + column];
      default: {
        const int64_t rows = q_.rows_per_matrix(), matrix = row / rows;
        return scales_[(matrix * q_.row_tiles() + row % rows / kTile) * tiles + column / kTile];
      }
    }
  }

 private:
  const QuantizedTensor& q_;
  const float* scales_;
  std::vector<int64_t> block_of_row_;
};

template <class Format, class Element>
CodeCounts count_row(const QuantizedTensor& q, const ScaleOf& scale_of, int64_t row, const Element* x) {
  const auto magnitude = [](uint32_t code) {
    return static_cast<double>(to_float(Format{static_cast<decltype(Format::bits)>(code)}));
  };
  constexpr uint32_t kLargest = Format::largest_code;
  const double too_large = 1.5 * magnitude(kLargest) - 0.5 * magnitude(kLargest - 1);
  const std::byte* codes = q.codes.raw() + static_cast<size_t>(row) * q.row_bytes();
  CodeCounts counts;
  for (int64_t column = 0; column < q.columns(); ++column) {
    float value = 0;
    if constexpr (std::is_same_v<Element, float>)
      value = std::abs(x[column]);
    else
      value = std::abs(to_float(x[column]));
    if (value == 0 || !std::isfinite(value)) continue;
    ++counts.elements;
    counts.underflow += (load_code<Format>(codes, column).bits & (Format::sign_bit - 1)) == 0;
    counts.saturated += static_cast<double>(value) >= too_large * static_cast<double>(scale_of(row, column));
  }
  return counts;
}

}  // namespace

const char* tensor_class_name(TensorClass tensor_class) {
  constexpr std::array<const char*, kTensorClasses> kNames = {
      "weights",  "linear_inputs",    "attention_output",  "swiglu_inputs",
      "dispatch", "output_gradients", "dispatch_gradients"};
  return kNames[static_cast<size_t>(tensor_class)];
}

CodeCounts count_codes(Exec& exec, const Tensor& x, const QuantizedTensor& q) {
  constexpr int64_t kRows = 32;  // of a task
  const int64_t rows = q.matrices() * q.rows_per_matrix(), tasks = (rows + kRows - 1) / kRows;
  const ScaleOf scale_of(q);
  std::vector<CodeCounts> parts(static_cast<size_t>(tasks));
  for_code_format(q.format, [&]<class Format>(Format) {
    exec.pool->for_each(tasks, [&](int64_t task, int) {
      for (int64_t row = task * kRows; row < std::min((task + 1) * kRows, rows); ++row)
        parts[static_cast<size_t>(task)] +=
            x.dtype() == DType::bf16
                ? count_row<Format>(q, scale_of, row, x.data<bf16>() + row * q.columns())
                : count_row<Format>(q, scale_of, row, x.data<float>() + row * q.columns());
    });
  });
  CodeCounts sum;
  for (const CodeCounts& part : parts) sum += part;
  return sum;
}

void quantize_counted(Exec& exec, TensorClass tensor_class, const Tensor& x, const QuantizedTensor& q) {
  (void)quantize(exec, x, q);
  if (exec.quantization != nullptr) exec.quantization->of(tensor_class) += count_codes(exec, x, q);
}

void retile_counted(Exec& exec, TensorClass tensor_class, const QuantizedTensor& q_TD,
                    const QuantizedTensor& token_tiles_TD) {
  retile(exec, q_TD, token_tiles_TD);
  if (exec.quantization == nullptr) return;
  const Tensor x_TD = Tensor::empty(*exec.allocator, q_TD.shape, DType::f32);
  dequantize(exec, q_TD, x_TD);
  exec.quantization->of(tensor_class) += count_codes(exec, x_TD, token_tiles_TD);
}

}  // namespace moray
