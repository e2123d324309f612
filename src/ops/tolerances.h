// How far an f32 output may lie from the f64 reference's, as ‖a − b‖ / ‖b‖ over the whole output.
//
// One rounding to f32 is at most 2⁻²⁴ = 6e-8 of a number and about 3e-8 in the mean; a sum of n of them in
// order wanders by about √n. Each line says where more comes from.
#pragma once

namespace moray::tolerance {

constexpr double kElementwise = 1e-7;    // one or two roundings
constexpr double kMatmul = 1e-6;         // up to 400 terms of random sign, in blocks of 128
constexpr double kToBf16 = 4e-3;         // the output is rounded to 8 bits: 2⁻⁸ at most
constexpr double kCombineBf16 = 6e-3;    // rounded inside each expert group, and at the end
constexpr double kAttentionBf16 = 1e-2;  // the backward pass sees a rounded o: dp − Σ dO·o is a difference
constexpr double kRmsNorm = 1e-6;        // a square root and a division after a sum of positive terms
constexpr double kRope = 2e-7;           // two products and a sum; the tables are rounded to f32 too
constexpr double kAttention = 1.5e-6;    // scores of size 5 lose 3e-7 before exp; dscore is a difference
constexpr double kRouter = 1e-6;         // exp, and in the softmax's gradient a difference
constexpr double kSwiglu = 1e-6;         // exp and a division; drouter_gate is a sum of random sign
constexpr double kCombine = 5e-7;        // at most 8 terms
constexpr double kCrossEntropy = 1e-6;   // logits of size 5 lose 5e-7 before exp
constexpr double kEmbeddingWeight = 5e-7;   // a few hundred terms where one id fills a block
constexpr double kAdamW = 1e-6;             // a square root and two divisions
constexpr double kAdamWMomentsBf16 = 3e-3;  // the moments are rounded to 8 bits
constexpr double kSquares = 3e-7;           // 4096 positive terms in 16 lanes

// The limit of the whole project for f32 gradients against f64 ones; every gradient's tolerance above is
// within it.
constexpr double kGradient = 1e-4;
static_assert(kMatmul <= kGradient && kRmsNorm <= kGradient && kRope <= kGradient &&
              kAttention <= kGradient && kRouter <= kGradient && kSwiglu <= kGradient &&
              kCombine <= kGradient && kCrossEntropy <= kGradient && kEmbeddingWeight <= kGradient);

}  // namespace moray::tolerance
