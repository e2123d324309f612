#include "base/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace moray {

namespace {
constexpr size_t kBufferBytes = size_t{1} << 20;

int open_for_writing(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) fail("{}: cannot create: {}", path.string(), std::strerror(errno));
  return fd;
}
}  // namespace

int open_for_reading(const fs::path& path) {
  // Regular files do not know O_NONBLOCK; a pipe would wait for a writer.
  const int fd = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (fd < 0) fail("{}: cannot open: {}", path.string(), std::strerror(errno));
  struct stat info {};
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    fail("{}: not a regular file", path.string());
  }
  return fd;
}

std::string read_file(const fs::path& path, uint64_t most_bytes) {
  const int fd = open_for_reading(path);
  struct stat info {};
  ::fstat(fd, &info);
  std::string content;
  for (;;) {
    const uint64_t bytes = std::max(static_cast<uint64_t>(info.st_size), uint64_t{content.size()});
    if (bytes > most_bytes) {
      ::close(fd);
      fail("{}: has {} bytes; at most {} are read of such a file", path.string(), bytes, most_bytes);
    }
    const size_t old_size = content.size();
    content.resize(old_size + kBufferBytes);
    const ssize_t got = ::read(fd, content.data() + old_size, kBufferBytes);
    if (got < 0) {
      const int error = errno;
      ::close(fd);
      fail("{}: cannot read: {}", path.string(), std::strerror(error));
    }
    content.resize(old_size + static_cast<size_t>(got));
    if (got == 0) break;
  }
  ::close(fd);
  return content;
}

void write_file_atomically(const fs::path& path, std::string_view content) {
  std::error_code unknown;
  const fs::file_status there = fs::status(path, unknown);
  // A rename would put a file in the place of a device such as /dev/null.
  if (fs::exists(there) && !fs::is_regular_file(there)) fail("{}: not a regular file", path.string());
  const fs::path temporary = path.string() + ".tmp";
  try {
    FileWriter writer(temporary);
    writer.write(content);
    writer.finish();
    std::error_code error;
    fs::rename(temporary, path, error);
    if (error) fail("{}: cannot rename into place: {}", path.string(), error.message());
  } catch (...) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw;
  }
  sync_folder(path.has_parent_path() ? path.parent_path() : fs::path("."));
}

fs::path whole_path(const fs::path& path) {
  const fs::path whole = fs::absolute(path).lexically_normal();
  return whole.has_filename() ? whole : whole.parent_path();
}

void create_folder(const fs::path& path) {
  std::error_code error;
  if (fs::is_symlink(fs::symlink_status(path, error))) fail("{}: is a link; remove it", path.string());
  fs::create_directories(path, error);
  if (error) fail("{}: cannot create the folder: {}", path.string(), error.message());
}

void expect_room(const fs::path& path, uint64_t bytes) {
  std::error_code error;
  fs::path there = whole_path(path);
  while (!fs::exists(there, error) && there.has_relative_path()) there = there.parent_path();
  const fs::space_info space = fs::space(there, error);
  if (!error && space.available < bytes)
    fail("{}: {:.1f} GB are to come, but the disk has room for {:.1f} GB", path.string(),
         static_cast<double>(bytes) / 1e9, static_cast<double>(space.available) / 1e9);
}

void sync_folder(const fs::path& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail("{}: cannot open folder: {}", folder.string(), std::strerror(errno));
  const int result = ::fsync(fd);
  const int error = errno;
  ::close(fd);
  if (result != 0 && error != EINVAL)
    fail("{}: cannot sync folder: {}", folder.string(), std::strerror(error));
}

MappedFile::MappedFile(const fs::path& path) : path_(path) {
  const int fd = open_for_reading(path);
  struct stat info {};
  ::fstat(fd, &info);
  size_ = static_cast<size_t>(info.st_size);
  if (size_ > 0) {
    void* mapped = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
    const int error = errno;
    ::close(fd);
    if (mapped == MAP_FAILED) fail("{}: cannot map: {}", path.string(), std::strerror(error));
    data_ = static_cast<const std::byte*>(mapped);
  } else {
    ::close(fd);
  }
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

FileWriter::FileWriter(const fs::path& path) : path_(path), fd_(open_for_writing(path)) {
  buffer_.reserve(kBufferBytes);
  hash_state_ = XXH3_createState();
  XXH3_64bits_reset(static_cast<XXH3_state_t*>(hash_state_));
}

FileWriter::~FileWriter() {
  if (fd_ >= 0) ::close(fd_);
  XXH3_freeState(static_cast<XXH3_state_t*>(hash_state_));
}

void FileWriter::write(const void* data, size_t bytes) {
  XXH3_64bits_update(static_cast<XXH3_state_t*>(hash_state_), data, bytes);
  bytes_written_ += bytes;
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const size_t part = std::min(bytes, kBufferBytes - buffer_.size());
    buffer_.append(from, part);
    from += part;
    bytes -= part;
    if (buffer_.size() == kBufferBytes) flush();
  }
}

void FileWriter::flush() {
  size_t done = 0;
  while (done < buffer_.size()) {
    const ssize_t written = ::write(fd_, buffer_.data() + done, buffer_.size() - done);
    if (written < 0) {
      if (errno == EINTR) continue;
      fail("{}: cannot write: {}", path_.string(), std::strerror(errno));
    }
    done += static_cast<size_t>(written);
  }
  buffer_.clear();
}

uint64_t FileWriter::finish() {
  flush();
  if (::fsync(fd_) != 0) fail("{}: cannot sync: {}", path_.string(), std::strerror(errno));
  const int result = ::close(std::exchange(fd_, -1));
  if (result != 0) fail("{}: cannot close: {}", path_.string(), std::strerror(errno));
  return XXH3_64bits_digest(static_cast<XXH3_state_t*>(hash_state_));
}

uint64_t checksum(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

namespace {
int advise(std::span<const std::byte> mapped, int advice) {
  return ::madvise(const_cast<std::byte*>(mapped.data()), mapped.size(), advice);
}
}  // namespace

void release_pages(std::span<const std::byte> mapped) {
  static const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(mapped.data()), end = begin + mapped.size();
  const uintptr_t first = (begin + page - 1) / page * page, last = end / page * page;
  if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

uint64_t file_checksum(const fs::path& path) {
  constexpr size_t kPieceBytes = size_t{1} << 20;  // fits L2, so that it is summed from there
  const MappedFile file(path);
  const std::span<const std::byte> all = file.bytes();
  if (!all.empty()) advise(all, MADV_SEQUENTIAL);  // the system reads further ahead
  XXH3_state_t* const state = XXH3_createState();
  XXH3_64bits_reset(state);
  int error = 0;
  for (size_t at = 0; at < all.size() && error == 0; at += kPieceBytes) {
    const std::span<const std::byte> piece = all.subspan(at, std::min(kPieceBytes, all.size() - at));
    // Where a piece cannot be read this tells so, touching it would be a SIGBUS. EINVAL: Linux before 5.14.
    if (advise(piece, MADV_POPULATE_READ) != 0 && errno != EINVAL)
      error = errno;
    else
      XXH3_64bits_update(state, piece.data(), piece.size());
  }
  const uint64_t sum = XXH3_64bits_digest(state);
  XXH3_freeState(state);
  if (error != 0) fail("{}: cannot read: {}", path.string(), std::strerror(error));
  return sum;
}

}  // namespace moray
