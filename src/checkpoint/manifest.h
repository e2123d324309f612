// A checkpoint's manifest: which files it consists of, their sizes and checksums, protected by a checksum of
// its own.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/files.h"
#include "checkpoint/safetensors_writer.h"

namespace moray {

constexpr const char* kManifestFile = "manifest.json";

struct Manifest {
  int64_t step = 0;
  std::vector<WrittenFile> files;  // names are "model/..." or "state/...", one level deep

  const WrittenFile* find(std::string_view name) const;  // nullptr when absent
};

// JSON whose last member is the checksum of all text before it, so that any changed byte is found.
std::string manifest_text(const Manifest& manifest);

// Reads CHECKPOINT/manifest.json. Throws Error when it is missing, damaged, of another format version, or
// names a file outside model/ and state/.
Manifest read_manifest(const fs::path& checkpoint);

// Throws Error naming the first file of the manifest that is missing or has another size; with `checksums`,
// also the first whose content has changed.
void check_files(const fs::path& checkpoint, const Manifest& manifest, bool checksums);

}  // namespace moray
