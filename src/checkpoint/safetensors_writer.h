// Writing safetensors files and Hugging Face weight folders.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/files.h"
#include "tensor/tensor.h"

namespace moray {

// A tensor and its name in the file; `stored_as` asks for another dtype there (F32, BF16 and F64 convert to
// each other, narrowing to nearest even).
struct NamedTensor {
  std::string name;
  Tensor tensor;
  std::optional<DType> stored_as = std::nullopt;

  DType stored_dtype() const { return stored_as.value_or(tensor.dtype()); }
};

// A file written and synced: what a manifest needs to know of it.
struct WrittenFile {
  std::string name;  // inside the folder
  uint64_t bytes = 0;
  uint64_t checksum = 0;  // XXH3, 64 bits
};

// Shards of this size are what Hugging Face tools write by default.
constexpr uint64_t kDefaultShardBytes = 5'000'000'000;

// Writes the tensors in the order given, back to back, as the format demands; the data section begins at a
// multiple of 64 bytes. Metadata is {"format": "pt"}. Names must be distinct. The file appears at once and is
// not atomic: whoever needs that writes into a folder of its own. Throws Error naming the path when the disk
// is full.
WrittenFile write_safetensors(const fs::path& path, std::span<const NamedTensor> tensors);

// For files larger than memory: the tensors to come, and what gives the bytes of the i-th. It is asked in
// order, when their turn has come, and they are used until the next call.
struct TensorToWrite {
  std::string name, dtype;  // the format's word
  std::vector<int64_t> shape;
  uint64_t bytes = 0;
};
// Of the file that holds them all.
uint64_t safetensors_bytes(std::span<const TensorToWrite> tensors);
TensorToWrite tensor_to_write(const std::string& name, DType dtype, const Shape& shape);
using BytesOf = std::function<std::span<const std::byte>(size_t)>;
WrittenFile write_safetensors(const fs::path& path, std::span<const TensorToWrite> tensors,
                              const BytesOf& bytes_of);

// Writes `model.safetensors` into an existing folder, or, where the data exceeds max_shard_bytes,
// `model-00001-of-0000N.safetensors` ... and `model.safetensors.index.json`. A shard holds at least one
// tensor, and tensors keep their order across shards.
std::vector<WrittenFile> write_safetensors_folder(const fs::path& folder,
                                                  std::span<const NamedTensor> tensors,
                                                  uint64_t max_shard_bytes = kDefaultShardBytes);
std::vector<WrittenFile> write_safetensors_folder(const fs::path& folder,
                                                  std::span<const TensorToWrite> tensors,
                                                  const BytesOf& bytes_of, uint64_t max_shard_bytes);

// The index over finished shards; none for a single model.safetensors.
void write_safetensors_index(const fs::path& folder, std::span<const std::string> shard_names);

// Writes and syncs a small file, for the manifest's sake.
WrittenFile write_text_file(const fs::path& path, std::string_view content);

}  // namespace moray
