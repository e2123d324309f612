#include "base/folder_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace moray {

FolderLock::FolderLock(const fs::path& folder, const std::string& work) : path_(folder / ".lock") {
  fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
  if (fd_ < 0) fail("{}: cannot create: {}", path_.string(), std::strerror(errno));
  if (::flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    ::close(fd_);
    fail("{}: another {} is at work in this folder", folder.string(), work);
  }
}

FolderLock::~FolderLock() {
  ::close(fd_);
}

void FolderLock::remove() const {
  ::unlink(path_.c_str());
}

}  // namespace moray
