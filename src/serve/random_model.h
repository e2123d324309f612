// A model of random weights, for measuring speed where no checkpoint is at hand.
#pragma once

#include <functional>

#include "serve/served_model.h"

namespace moray {

// Matrices of `dtype` (f32, bf16, f8_e4m3, or i8 and u8 for 8 and 4 bits as in checkpoint/int_weights.h; what
// is kept beside codes is bf16), evenly distributed with the deviation 1/sqrt(inputs), so that states keep
// their size; norms are 1, routers f32. The same numbers for any number of threads.
ServedModel random_model(Exec&, const deepseek::ModelConfig&, DType dtype);

// The same kind of weights as a folder, a tensor in memory at a time. No tokenizer. Throws Error when the
// folder exists or the disk lacks the room. `progress` gets bytes written of all.
void write_random_folder(Exec&, const deepseek::ModelConfig&, DType dtype, const fs::path& folder,
                         uint64_t max_shard_bytes,
                         const std::function<void(uint64_t done, uint64_t total)>& progress = {});

// What one decoded token reads of the weights: of chosen experts their share, of the embedding nothing.
struct ReadWeight {
  Tensor tensor;
  double share = 1;

  double bytes() const { return share * static_cast<double>(tensor.bytes()); }
};
std::vector<ReadWeight> weights_of_a_token(const ServedModel&);

}  // namespace moray
