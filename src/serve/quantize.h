// Folders of F32, BF16 or block-FP8 weights made folders of 8 or 4 bits (checkpoint/int_weights.h).
#pragma once

#include <functional>

#include "checkpoint/int_weights.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/safetensors_writer.h"
#include "runtime/exec.h"

namespace moray {

// Bytes read so far.
using QuantizeProgress = std::function<void(uint64_t)>;

// Writes the quantized tensors of a shard, and the others as they are, to the file `into`: complete or
// absent, one tensor in memory at a time, all threads at a tensor, the same bytes for any number of them. The
// scales of FP8 weights are looked for in `files`, the shard among them. Throws Error naming the tensor for
// scales that are missing or mis-shaped, numbers that are not finite, and types that cannot be converted.
void quantize_shard(Exec&, const SafetensorsFile& shard, std::span<const SafetensorsFile> files,
                    IntFormat format, const fs::path& into, const QuantizeProgress& progress = {});

// Throws Error for the config.json of a model that is quantized already, or in another way than published
// FP8.
void expect_quantizable(std::string_view config_json, const std::string& where);

// Whether a file of a model folder goes into the quantized one as it is: all at its top but weights, their
// index, config.json, and hidden files.
bool is_kept_beside_weights(const std::string& file_name);

struct QuantizeSummary {
  uint64_t bytes_before = 0, bytes_after = 0;  // of weights
  int64_t shards = 0, shards_there = 0;        // finished before, by an earlier call
};

// The whole folder: OUTPUT is complete or absent. What is under way lies in OUTPUT.part; a later call goes on
// with the shard it was at. Throws Error when OUTPUT exists, when the folder is quantized already, when the
// part is of another model or format, when the disk lacks the room, when a file to be copied lies elsewhere,
// and as quantize_shard does. `progress` gets bytes read of `bytes_before`.
QuantizeSummary quantize_folder(Exec&, const fs::path& model, const fs::path& output, IntFormat format,
                                const std::function<void(uint64_t done, uint64_t total)>& progress);

}  // namespace moray
