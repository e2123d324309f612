// Products with weights of 8 and 4 bits (tensor/int_rows.h).
#pragma once

#include <span>

#include "ops/weight_matmul.h"

namespace moray::cpu {

// The products among these whose weights are integers.
void run_integer_products(Exec&, std::span<const WeightProduct>);

}  // namespace moray::cpu
