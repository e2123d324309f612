// Scalars for TensorBoard: one event file a run, written by hand (six fields of protobuf in checksummed
// records).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/files.h"
#include "report/append_file.h"
#include "report/metrics.h"

namespace moray {

using NamedScalars = std::vector<std::pair<std::string, double>>;

// What a step shows in TensorBoard: loss/train, loss/mtp_1, balance/layer_0, ...
NamedScalars tensorboard_scalars(const StepMetrics& metrics);

// Appends to tensorboard/events.out.tfevents.0.moray in a run folder.
class TensorBoardWriter {
 public:
  // Keeps the events of the steps up to `resumed_step` (0: a fresh run), atomically. Throws Error when the
  // file cannot be written.
  TensorBoardWriter(const fs::path& run_folder, int64_t resumed_step);

  // One event, with one write to the system. `wall_seconds` is Unix time. Throws Error when the disk refuses.
  void write(int64_t step, double wall_seconds, const NamedScalars& scalars);

 private:
  AppendFile file_;
};

// CRC-32C (Castagnoli) of bytes, as TFRecord files use it.
uint32_t crc32c(std::string_view bytes);

}  // namespace moray
