// Tasks of weight_rows-inl.h and weight_panels-inl.h.
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
  int64_t first_output = 0, outputs = kTaskOutputs;  // fewer at the end; of panels, a multiple of 16
};

}  // namespace moray::cpu
