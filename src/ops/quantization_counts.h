// How much of what is quantized becomes zero or meets the end of the format's range, by the class of the
// tensor: counted while an Exec has counts.
#pragma once

#include <array>
#include <cstdint>

#include "ops/quantize.h"

namespace moray {

// What FP8 training holds as codes (report §3.3).
enum class TensorClass : uint8_t {
  weights,
  linear_inputs,       // of linear layers and experts, for products and kept
  attention_output,    // kept
  swiglu_inputs,       // kept
  dispatch,            // sent to the experts, forward
  output_gradients,    // of linear layers and experts
  dispatch_gradients,  // sent to the experts, backward
};
constexpr size_t kTensorClasses = 7;
const char* tensor_class_name(TensorClass tensor_class);  // as in the enum

struct CodeCounts {
  int64_t elements = 0;   // finite and not 0, counted each time that they are quantized
  int64_t underflow = 0;  // of these, become 0
  // Of these, |x / s| lies half a step or more beyond the format's largest number. With the scales of
  // ops/quantize.h there are none.
  int64_t saturated = 0;

  CodeCounts& operator+=(const CodeCounts& other) {
    elements += other.elements;
    underflow += other.underflow;
    saturated += other.saturated;
    return *this;
  }
  double share(int64_t part) const {
    return elements > 0 ? static_cast<double>(part) / static_cast<double>(elements) : 0;
  }
  double underflow_share() const { return share(underflow); }
  double saturated_share() const { return share(saturated); }
};

struct QuantizationCounts {
  std::array<CodeCounts, kTensorClasses> classes;

  CodeCounts& of(TensorClass tensor_class) { return classes[static_cast<size_t>(tensor_class)]; }
  const CodeCounts& of(TensorClass tensor_class) const { return classes[static_cast<size_t>(tensor_class)]; }
};

// Of a tensor x (f32 or bf16) and what it was quantized to.
CodeCounts count_codes(Exec&, const Tensor& x, const QuantizedTensor& q);

// quantize() and retile() of ops/quantize.h, counted where the Exec has counts. What is not finite stays so:
// the step's losses tell.
void quantize_counted(Exec&, TensorClass, const Tensor& x, const QuantizedTensor& q);
void retile_counted(Exec&, TensorClass, const QuantizedTensor& q_TD, const QuantizedTensor& token_tiles_TD);

}  // namespace moray
