// Stand-ins for published checkpoints: folders with the true names, types and shapes of all tensors, whose
// data is a hole in the file. What belongs to a model is written down here once more, from its authors' code
// and files, and not taken from models/deepseek.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/files.h"

namespace moray::test {

struct PublishedTensor {
  std::string name, dtype;  // dtype as safetensors spells it
  std::vector<int64_t> shape;

  int64_t elements() const;
};

// The tensors of the model of a config.json, block-FP8 where it says so; MTP layers with their copies of
// embedding and head, as published.
std::vector<PublishedTensor> published_tensors(const std::string& config_json);

// config.json, shards of about `shard_bytes`, and the index. Takes a few megabytes of disk.
void write_sparse_folder(const fs::path& folder, const std::string& config_json,
                         uint64_t shard_bytes = uint64_t{4300} << 20);

// The published config.json of a family: v2-lite, v2, v3 (R1's too), v3.1, moonlight, kimi-k2.
std::string published_config(const std::string& family);

}  // namespace moray::test
