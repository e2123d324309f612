// What numbers the layers of a training run compute with, keep and send: a recipe's `train.precision` and the
// keys under it, resolved.
#pragma once

#include <array>
#include <optional>

#include "nn/parameters.h"
#include "tensor/quantized.h"

namespace moray {

enum class PrecisionKind : uint8_t { f32, bf16, fp8 };

// Codes that something is kept or sent in, by row tiles; none: as the activations are.
using CodeForm = std::optional<CodeFormat>;

// Parts of the model whose products an FP8 recipe may leave in BF16.
enum class Part : uint8_t { self_attn, mlp, shared_experts, experts, eh_proj };
constexpr std::array<const char*, 5> kPartNames = {"self_attn", "mlp", "shared_experts", "experts",
                                                   "eh_proj"};

struct Precision {
  PrecisionKind kind = PrecisionKind::f32;

  // Outputs that the backward pass computes again instead of keeping them; no bit depends on it.
  bool recompute_norms = false;   // every RMSNorm's
  bool recompute_mla_up = false;  // queries, keys and values from their latents

  // With FP8 products; the defaults are the report's (§3.2.2, §3.3.3).
  ScaleFormat scales = ScaleFormat::fp32;        // of linear layers' inputs, output gradients and weights
  CodeForm linear_inputs = CodeFormat::f8_e4m3;  // kept for the weights' gradients
  CodeForm attention_output =
      CodeFormat::f12_e5m6;                      // kept for attention and the linear after it; powers of two
  CodeForm swiglu_inputs = CodeFormat::f8_e4m3;  // kept; the output is computed from them again
  CodeForm dispatch = CodeFormat::f8_e4m3;       // sent to the experts, forward; powers of two
  CodeForm dispatch_gradient = CodeFormat::f8_e4m3;  // sent to the experts, backward; powers of two

  // Bit p: Part p stays in BF16. The report keeps embedding, head, router, norms and the attention core high,
  // which have no FP8 form here; the published folders keep the MTP modules' eh_proj high too.
  uint8_t high_precision = 1u << static_cast<unsigned>(Part::eh_proj);

  bool fp8() const { return kind == PrecisionKind::fp8; }
  bool is_high(Part part) const { return (high_precision >> static_cast<unsigned>(part) & 1u) != 0; }
  // What a part of the model computes with.
  Precision of(Part part) const {
    Precision own = *this;
    if (fp8() && is_high(part)) own.kind = PrecisionKind::bf16;
    return own;
  }
  CodeForm when_fp8(CodeForm form) const { return fp8() ? form : std::nullopt; }

  // Of activations and their gradients. What never is narrower than FP32: the router but for its input,
  // norms' weights and statistics, losses, gradients of weights, master weights. Never in FP8: embedding,
  // head, norms and the attention core.
  DType activations() const { return kind == PrecisionKind::f32 ? DType::f32 : DType::bf16; }
};

// Calls with every weight that a matrix product of the model's precision reads, and where its codes belong
// (nullptr where its products are not in FP8). The router's weight is not among them, nor are norms and
// embedding.
using ProductWeightVisitor = std::function<void(Tensor& weight, QuantizedTensor* codes)>;

}  // namespace moray
