// One file of a repository brought into a folder: resumed where an earlier try ended, checked, whole or
// absent.
#pragma once

#include <atomic>
#include <functional>

#include "base/files.h"
#include "hub/repository.h"

namespace moray::hub {

// What the downloads of one pull have in common.
struct DownloadContext {
  const Hub& hub;
  const Repository& repository;
  fs::path folder;
  std::function<void(int64_t)> advanced;  // bytes gained, or lost when a part is thrown away; from any thread
  std::atomic<bool> stop = false;         // ends all of them soon
  std::atomic<bool> warned_of_no_digest = false;  // said once, not of each file
};

inline constexpr const char* kPartSuffix = ".part";

// Brings FOLDER/PATH, by way of FOLDER/PATH.part, which a later call goes on with. Bytes already there count
// as advanced. Dropped connections and passing refusals are retried, kMostAttempts times in a row without any
// new byte. A finished part with another digest is thrown away and fetched once more. Throws Error for
// anything that will not pass: refusals, another size than the list says, a wrong digest twice, a full disk.
// Returns early when stopped. Warns of a file whose digest neither the list nor the answer says.
void download(HttpClient& http, DownloadContext& context, const RemoteFile& file);

}  // namespace moray::hub
