// What E4M3 loses of a checkpoint's tensors, by how many elements share a scale and by the scale's form.
#pragma once

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "base/files.h"
#include "runtime/thread_pool.h"
#include "tensor/quantized.h"

namespace moray::numerics {

// Elements that share a scale: 1×128, 128×128, the whole tensor.
enum class Sharing : uint8_t { tile, block, tensor };
inline constexpr std::array kSharings = {Sharing::tile, Sharing::block, Sharing::tensor};
inline constexpr std::array kScaleFormats = {ScaleFormat::fp32, ScaleFormat::power_of_two};
const char* sharing_name(Sharing sharing);

// Scales as in ops/quantize.h: amax / 448, rounded up to a power of two for that form.
struct QuantizationLoss {
  double squares = 0;   // Σ (x − x̂)²
  int64_t zeroed = 0;   // elements that are not 0 and become 0
  double greatest = 0;  // max |x − x̂|
};

struct TensorLoss {
  std::string name;
  int64_t rows = 0, columns = 0;
  double squares = 0;  // Σ x²
  float greatest = 0;  // the element of largest magnitude, with its sign, and its place
  int64_t greatest_row = 0, greatest_column = 0;
  int64_t far_out = 0;  // elements beyond kFarOut times the RMS
  std::array<std::array<QuantizationLoss, kScaleFormats.size()>, kSharings.size()> losses;

  static constexpr double kFarOut = 6;
  double elements() const { return static_cast<double>(rows) * static_cast<double>(columns); }
  double rms() const;      // of the elements
  double outlier() const;  // |greatest| / rms; 0 where all is 0
  const QuantizationLoss& loss(Sharing sharing, ScaleFormat format) const {
    return losses[static_cast<size_t>(sharing)][static_cast<size_t>(format)];
  }
  // √(Σ (x − x̂)² / Σ x²)
  double relative_error(Sharing sharing, ScaleFormat format) const;
};

// Every tensor of two dimensions and a floating type in a model folder or one safetensors file; FP8 weights
// count as what they dequantize to. `progress(elements done)` may be called from any thread, one at a time.
// Throws Error naming a tensor that holds NaN or infinity.
std::vector<TensorLoss> study_tensors(const fs::path& path, ThreadPool& pool,
                                      const std::function<void(int64_t)>& progress);
// Elements that study_tensors looks at.
int64_t elements_to_study(const fs::path& path);

// Tensors of one kind: "self_attn.o_proj", "mlp.experts.*.up_proj".
std::string tensor_kind(const std::string& name);

// By kind; then the `worst` tensors with the farthest outliers, or all tensors.
std::string tensors_table(const std::vector<TensorLoss>& losses, size_t worst, bool all);

}  // namespace moray::numerics
