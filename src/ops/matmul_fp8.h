// Products of quantized matrices in the three directions of a linear layer, dense and grouped by expert:
// ops/matmul.h with scales.
//
// T tokens (rows), I inputs, O outputs, R expert rows, E experts, G gradient groups.
//
// Every output is accumulated over k in blocks of at most 128, as ops/matmul.h says; in each,
//   part = 0; part = fma(a, b, part) over the decoded codes; run = fma(round32(scale_a · scale_b), part,
//   run).
// On the reference device with Exec::tensor_core set, `part` is what that core's sum holds after each
// `promotion` products of a block (0: after the block), and joins as above: the oracle of a GPU kernel.
//
// A block is a tile of both operands, so that one scale of each serves it. Outputs are f32 (bf16: rounded to
// nearest even once, at the end). Operands may be of any code format.
#pragma once

#include "ops/quantize.h"

namespace moray {

struct MatmulFp8Kernels {
  void (*forward)(Exec&, const QuantizedTensor& x_TI, const QuantizedTensor& w_OI,
                  const Tensor& y_TO) = nullptr;
  void (*backward_input)(Exec&, const QuantizedTensor& dy_TO, const QuantizedTensor& w_OI,
                         const Tensor& dx_TI, bool accumulate) = nullptr;
  void (*backward_weight)(Exec&, const QuantizedTensor& dy_TO, const QuantizedTensor& x_TI, const SampleRows&,
                          const Tensor& dw_GOI) = nullptr;
  void (*grouped_forward)(Exec&, const QuantizedTensor& x_RI, const QuantizedTensor& w_EOI, const ExpertRows&,
                          const Tensor& y_RO) = nullptr;
  void (*grouped_backward_input)(Exec&, const QuantizedTensor& dy_RO, const QuantizedTensor& w_EOI,
                                 const ExpertRows&, const Tensor& dx_RI, bool accumulate) = nullptr;
  void (*grouped_backward_weight)(Exec&, const QuantizedTensor& dy_RO, const QuantizedTensor& x_RI,
                                  const ExpertRows&, const Tensor& dw_EOI) = nullptr;
};

// fprop: y = x · wᵀ, row tiles by blocks.
void matmul_fp8_forward(Exec&, const QuantizedTensor& x_TI, const QuantizedTensor& w_OI, const Tensor& y_TO);

// dgrad: dx = dy · w, row tiles by blocks; with `accumulate` dx += dy · w.
void matmul_fp8_backward_input(Exec&, const QuantizedTensor& dy_TO, const QuantizedTensor& w_OI,
                               const Tensor& dx_TI, bool accumulate = false);

// wgrad: dw[g] += Σ over the rows of the samples of group g of dyᵀ · x; token tiles both, whose row blocks
// are those of `rows`.
void matmul_fp8_backward_weight(Exec&, const QuantizedTensor& dy_TO, const QuantizedTensor& x_TI,
                                const SampleRows&, const Tensor& dw_GOI);

// The same three by expert.
void grouped_matmul_fp8_forward(Exec&, const QuantizedTensor& x_RI, const QuantizedTensor& w_EOI,
                                const ExpertRows&, const Tensor& y_RO);
void grouped_matmul_fp8_backward_input(Exec&, const QuantizedTensor& dy_RO, const QuantizedTensor& w_EOI,
                                       const ExpertRows&, const Tensor& dx_RI, bool accumulate = false);
void grouped_matmul_fp8_backward_weight(Exec&, const QuantizedTensor& dy_RO, const QuantizedTensor& x_RI,
                                        const ExpertRows&, const Tensor& dw_EOI);

}  // namespace moray
