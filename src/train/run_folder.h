// What a run finds in its folder: whether another training is at work there, and the checkpoint to go on
// from.
#pragma once

#include <optional>

#include "checkpoint/checkpoint.h"

namespace moray {

// While alive, no other training can use the folder. The system frees it when the process ends, however it
// ends.
class RunFolderLock {
 public:
  // Creates the folder if absent. Throws Error when it cannot, or when another training holds the folder.
  explicit RunFolderLock(const fs::path& folder);
  ~RunFolderLock();
  RunFolderLock(const RunFolderLock&) = delete;
  RunFolderLock& operator=(const RunFolderLock&) = delete;

 private:
  int fd_ = -1;
};

// The newest checkpoint in `parent` whose every byte is right, opened; nullopt when there are none at all.
// Newer ones that are damaged are named in a warning and renamed to damaged-step-NNNNNNNN, out of the way of
// keep_last. Throws Error, and renames nothing, when all are damaged.
std::optional<Checkpoint> open_newest_checkpoint(const fs::path& parent);

}  // namespace moray
