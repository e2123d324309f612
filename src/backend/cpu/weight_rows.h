// Tasks of weight_rows-inl.h.
#pragma once

#include <algorithm>

#include "backend/cpu/matmul_blocking.h"
#include "ops/weight_matmul.h"

namespace moray::cpu {

constexpr int64_t kMostRowsDirect = 4;  // with more, the blocked product is faster
// Outputs of a task: as many streams from memory, and 256 KiB of a BF16 weight of 2048 inputs.
constexpr int64_t kTaskOutputs = 64;

struct RowsTask {
  const StoredWeight* weight = nullptr;
  const float* x = nullptr;  // rows x_stride apart, readable (and 0) up to a multiple of 4
  int64_t x_stride = 0, rows = 0;
  float* y = nullptr;
  int64_t first_output = 0;
};

// scale · 2^120 of each output in the k-block at k.
inline void block_factors(const RowsTask& task, int64_t k, int64_t outputs, float* factors) {
  constexpr float kRebias = 0x1p120f;
  const Tensor& scales = task.weight->scales;
  for (int64_t o = 0; o < outputs; ++o) {
    const int64_t block = (task.weight->first_row + task.first_output + o) / kTile;
    factors[o] = scales.data<float>()[block * scales.extent(1) + k / kTile] * kRebias;
  }
}

}  // namespace moray::cpu
