// A file that only grows, one whole record a call, so that a kill cuts at most the last record.
#pragma once

#include <string_view>

#include "base/files.h"

namespace moray {

class AppendFile {
 public:
  // Opens for appending and creates the file if absent. Throws Error naming the path.
  explicit AppendFile(const fs::path& path);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  // Hands the record to the system in one write. Throws Error (a full disk included).
  void append(std::string_view record);
  void sync();  // to disk

 private:
  fs::path path_;
  int fd_ = -1;
};

}  // namespace moray
