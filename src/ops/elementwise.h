// Sums and moves of whole rows.
#pragma once

#include "ops/rows.h"

namespace moray {

struct ElementwiseKernels {
  void (*add)(Exec&, const Tensor& a, const Tensor& b, const Tensor& out) = nullptr;
  void (*concat_columns)(Exec&, const Tensor& a_TA, const Tensor& b_TB, const Tensor& out) = nullptr;
  void (*split_columns)(Exec&, const Tensor& x, const Tensor& a_TA, const Tensor& b_TB) = nullptr;
  void (*convert)(Exec&, const Tensor& from, const Tensor& to) = nullptr;
};

// out = a + b, any equal shapes; out may be a or b.
void add(Exec&, const Tensor& a, const Tensor& b, const Tensor& out);

// Rows of `out` are a's row, then b's. split_columns is its inverse (and its backward pass).
void concat_columns(Exec&, const Tensor& a_TA, const Tensor& b_TB, const Tensor& out);
void split_columns(Exec&, const Tensor& x, const Tensor& a_TA, const Tensor& b_TB);

// to = from, in to's type: f32 to bf16 rounds to nearest even.
void convert(Exec&, const Tensor& from, const Tensor& to);

}  // namespace moray
