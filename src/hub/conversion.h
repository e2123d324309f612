// Shards of a repository made other shards as they come, so that the whole folder is never on disk.
#pragma once

#include "hub/download.h"

namespace moray::hub {

// What is made of downloaded files. Originals (the shards, their index and config.json) lie in a folder of
// their own while they are needed; what is made of them, and all other files, in the folder that is to be.
struct Conversion {
  std::string name;        // recorded, so that a pull goes on with nothing else: "4bit"
  double least_share = 0;  // of the shards' bytes, what is made of them takes at least
  // Looks at config.json and index before any shard is fetched; throws Error for what cannot be converted.
  std::function<void(const fs::path& originals)> check;
  // The shards that must be at hand to convert one, itself among them.
  std::function<std::vector<std::string>(const fs::path& originals, const std::string& shard)> needs;
  // Writes `into`, complete or absent.
  std::function<void(const fs::path& originals, const std::string& shard, const fs::path& into)> convert;
  // Writes index and config.json when all shards are there.
  std::function<void(const fs::path& originals, const fs::path& folder,
                     const std::vector<std::string>& shards)>
      finish;
};

// Whether a conversion takes the file instead of leaving it as it is.
bool is_original(const std::string& path);
bool is_shard(const std::string& path);

// Converts the shards that are not in `folder` yet, in order, while the next ones come: at most `connections`
// beyond those that the next conversion needs. Originals are removed when nothing needs them any more. Errors
// of a download or a conversion end all.
void fetch_and_convert(DownloadContext& originals, const fs::path& folder,
                       const std::vector<RemoteFile>& shards, const Conversion& conversion, int connections);

}  // namespace moray::hub
