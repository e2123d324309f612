// Files: whole reads, read-only maps, and writes that are complete or absent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace moray {

namespace fs = std::filesystem;

// What is small is read whole: configs, indices, tokenizers, recipes. The largest published take a third of
// this.
constexpr uint64_t kMostMetadataBytes = 100'000'000;
constexpr uint64_t kAnySize = UINT64_MAX;

// The whole file; throws Error naming the path when it cannot be read, is no regular file, or has more bytes
// than `most_bytes`.
std::string read_file(const fs::path& path, uint64_t most_bytes = kMostMetadataBytes);

// A descriptor to read a regular file from. Throws Error for anything else, a pipe at once: nobody waits for
// its other end.
int open_for_reading(const fs::path& path);

// Writes beside `path`, syncs, renames over it: a reader sees the old content or the new one, never half of
// it. Throws Error (a full disk, a folder or a device in the place) and leaves the old content.
void write_file_atomically(const fs::path& path, std::string_view content);

// Absolute, without "." and "..", and without a slash at its end: its parent and its name are what they seem.
fs::path whole_path(const fs::path& path);

// Makes a folder to work in, with its parents, unless it is there. Throws Error, also where a link stands in
// its place: what is written must not end up elsewhere.
void create_folder(const fs::path& path);

// Throws Error where the file system that holds `path`, or will hold it, has less room than `bytes`.
void expect_room(const fs::path& path, uint64_t bytes);

// Makes the names in a folder durable (fsync on the folder).
void sync_folder(const fs::path& folder);

// A read-only memory map of a whole file. An empty file maps to an empty span.
class MappedFile {
 public:
  explicit MappedFile(const fs::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Sequential writing with buffering and a checksum (XXH3, 64 bits) of all bytes written. finish() syncs to
// disk; without it the file counts as abandoned. Throws Error naming the path on every failure.
class FileWriter {
 public:
  explicit FileWriter(const fs::path& path);
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  void write(const void* data, size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  uint64_t finish();  // the checksum
  uint64_t bytes_written() const { return bytes_written_; }

 private:
  void flush();

  fs::path path_;
  int fd_ = -1;
  std::string buffer_;
  uint64_t bytes_written_ = 0;
  void* hash_state_ = nullptr;
};

// XXH3 (64 bits) of bytes in memory.
uint64_t checksum(std::span<const std::byte> bytes);
// Bytes of a mapped file that were read and are not wanted again, as far as they are whole pages: the system
// keeps them while it has memory for them, but they no longer count as this process's. Reading them again is
// allowed.
void release_pages(std::span<const std::byte> mapped);

// The same of a file, at the disk's rate: what comes next is asked for while a piece is summed. Throws Error.
uint64_t file_checksum(const fs::path& path);

}  // namespace moray
