// Writes checkpoints beside the training: a save costs the step a copy of the tensors, the disk is waited for
// by a thread.
#pragma once

#include <exception>
#include <thread>
#include <utility>

#include "checkpoint/checkpoint.h"

namespace moray {

class CheckpointWriter {
 public:
  // Of the checkpoints in `parent` the `keep_last` newest stay.
  CheckpointWriter(fs::path parent, int64_t keep_last) : parent_(std::move(parent)), keep_last_(keep_last) {}
  ~CheckpointWriter();

  // Copies the tensors into `allocator` and begins to write. Waits for the save before, and throws what it
  // threw.
  void save(Allocator& allocator, int64_t step, CheckpointContent content);

  // Until the last save is on disk; throws Error if it failed. Returns the newest checkpoint this writer
  // made, or an empty path.
  fs::path wait();

 private:
  fs::path parent_;
  int64_t keep_last_;
  std::thread thread_;
  fs::path written_;
  std::exception_ptr failure_;
};

}  // namespace moray
