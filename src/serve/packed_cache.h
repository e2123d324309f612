// The weights of a folder in the form they are served in, in one file, for later starts at the speed of
// memory.
//
// The file: "moraypk1", the header's length and XXH3 (8 bytes each), the header (JSON), then the tensors from
// the next multiple of 4096 on. The header says what folder it was made of (names, sizes and times of its
// shards, config.json) and has a checksum of every piece of every tensor. Nothing of it is trusted: names,
// types and shapes must be the plan's, and all bytes are summed while they are read. As sums show damage and
// no intent, a file counts only when it is of this user, of the model folder's owner, or of root.
#pragma once

#include <optional>

#include "serve/served_model.h"

namespace moray {

// Where a folder's packed file is looked for: FOLDER/.moray-packed, then a file named after the folder in
// $XDG_CACHE_HOME/moray, else ~/.cache/moray; not there when neither variable is set.
std::vector<fs::path> packed_cache_paths(const fs::path& folder);
// The one to write: in the folder, or in the user's cache where the folder cannot be written to. Throws Error
// when there is no cache either.
fs::path packed_cache_path(const fs::path& folder);

// Writes the file, complete or absent. Throws Error, as for a full disk.
void write_packed_cache(Exec&, const fs::path& path, const SafetensorsFolder&, const ServedModel&,
                        const LoadProgress& progress = {});

// nullopt when there is no such file, when the folder has changed since, and, with a warning, when the file
// is damaged or somebody else's.
std::optional<ServedModel> read_packed_cache(Exec&, const fs::path& path, const SafetensorsFolder&,
                                             const WeightPlan&, const LoadProgress& = {});

// From the packed file where there is a good one, else from the folder; then, with `keep`, the file is
// written and told of (a failure to do so is a warning). `reading` and `writing` are told of the two parts.
ServedModel load_weights_or_packed(Exec&, const SafetensorsFolder&, const WeightPlan&, bool keep,
                                   const LoadProgress& reading = {}, const LoadProgress& writing = {});

}  // namespace moray
