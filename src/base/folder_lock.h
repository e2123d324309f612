// Nobody else works in a folder while this lives: a locked file `.lock` in it.
#pragma once

#include <string>

#include "base/files.h"

namespace moray {

class FolderLock {
 public:
  // `work` is what the others are said to do: "another pull is at work in this folder". Throws Error.
  FolderLock(const fs::path& folder, const std::string& work);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;
  void remove() const;  // the file; the lock stays

 private:
  fs::path path_;
  int fd_ = -1;
};

}  // namespace moray
