#include "report/append_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace moray {

AppendFile::AppendFile(const fs::path& path) : path_(path) {
  fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd_ < 0) fail("{}: cannot open for writing: {}", path_.string(), std::strerror(errno));
}

AppendFile::~AppendFile() {
  ::close(fd_);
}

void AppendFile::append(std::string_view record) {
  while (!record.empty()) {
    const ssize_t written = ::write(fd_, record.data(), record.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("{}: cannot write: {}", path_.string(), std::strerror(errno));
    record.remove_prefix(static_cast<size_t>(written));
  }
}

void AppendFile::sync() {
  if (::fdatasync(fd_) != 0) fail("{}: cannot sync: {}", path_.string(), std::strerror(errno));
}

}  // namespace moray
