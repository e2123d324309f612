#include "train/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/log.h"

namespace moray {

namespace {

struct Damaged {
  fs::path path;
  std::string why;
};

// Folders named as checkpoints that are not in `complete`: saving makes them appear whole, so something
// happened to them afterwards.
std::vector<Damaged> incomplete_folders(const fs::path& parent, const std::vector<fs::path>& complete) {
  std::vector<Damaged> found;
  std::error_code error;
  for (fs::directory_iterator it(parent, error), end; !error && it != end; it.increment(error)) {
    if (!it->path().filename().string().starts_with("step-")) continue;
    if (std::find(complete.begin(), complete.end(), it->path()) != complete.end()) continue;
    try {
      verify_checkpoint(it->path());
    } catch (const Error& why) {
      found.push_back({it->path(), why.what()});
    }
  }
  return found;
}

void set_aside(const Damaged& damaged) {
  const fs::path aside = damaged.path.parent_path() / ("damaged-" + damaged.path.filename().string());
  std::error_code error;
  fs::remove_all(aside, error);
  fs::rename(damaged.path, aside, error);
  if (error) fail("{}: cannot rename to {}: {}", damaged.path.string(), aside.string(), error.message());
  log::warning("{}; set aside as {}", damaged.why, aside.filename().string());
}

}  // namespace

RunFolderLock::RunFolderLock(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail("{}: cannot create the folder: {}", folder.string(), error.message());
  const fs::path path = folder / ".lock";
  fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) fail("{}: cannot create: {}", path.string(), std::strerror(errno));
  // A file system without locks cannot tell, and does not keep anyone from training.
  if (::flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    ::close(fd_);
    fail("{}: another training is at work in this folder", folder.string());
  }
}

RunFolderLock::~RunFolderLock() {
  ::close(fd_);
}

std::optional<Checkpoint> open_newest_checkpoint(const fs::path& parent) {
  const std::vector<fs::path> complete = list_checkpoints(parent);
  std::vector<Damaged> damaged = incomplete_folders(parent, complete);
  for (auto newest = complete.rbegin(); newest != complete.rend(); ++newest) {
    try {
      Checkpoint checkpoint = open_checkpoint(*newest);
      for (const Damaged& folder : damaged) set_aside(folder);
      return checkpoint;
    } catch (const Error& why) {
      damaged.push_back({*newest, why.what()});
    }
  }
  if (!damaged.empty()) fail("{}; no checkpoint of this run is whole", damaged.front().why);
  return std::nullopt;
}

}  // namespace moray
