// The JSON header of a safetensors file, parsed without building a document: a hostile header costs no more
// memory than a few times its own size.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/safetensors.h"

namespace moray {

struct SafetensorsHeader {
  std::vector<StoredTensor> tensors;  // in the header's order
  std::map<std::string, std::string> metadata;
};

// Throws Error beginning with `where` for anything but {name: {"dtype": word, "shape": [...], "data_offsets":
// [b, e]}} and "__metadata__": {word: word}; also for a name twice, an unknown dtype, and a byte range that
// is not shape × dtype.
SafetensorsHeader parse_safetensors_header(std::string_view text, const std::string& where);

}  // namespace moray
