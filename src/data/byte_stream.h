// Files read as a stream, decompressed on the way.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "base/files.h"

namespace moray {

class ByteStream {
 public:
  // By the name's ending: .gz (zlib), .zst (zstd, windows of 128 MiB at most), .xz (liblzma, 192 MiB at
  // most), anything else as it is. Throws Error naming the path.
  static std::unique_ptr<ByteStream> open(const fs::path& path);
  virtual ~ByteStream() = default;

  // Fills as much of `buffer` as there is; 0 only at the end. Throws Error when the file is damaged or cut
  // short.
  virtual size_t read(std::span<char> buffer) = 0;
};

}  // namespace moray
