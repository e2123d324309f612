// Token shards: a part of a corpus' packed tokens in one memory-mapped file.
//
// Layout, little endian: a header of 64 bytes (ShardHeader); the tokens, 16 bits each when the vocabulary
// fits, else 32, padded with zeros to 8 bytes; for each document the index of its first token (64 bits).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "base/files.h"

namespace moray {

struct ShardHeader {
  std::array<char, 8> magic;
  uint32_t version;
  uint32_t token_bytes;  // 2 or 4
  uint64_t vocabulary_size;
  uint64_t tokens;
  uint64_t documents;
  uint64_t raw_bytes;         // of the documents' texts
  uint64_t payload_checksum;  // XXH3 of what follows the header
  uint64_t header_checksum;   // XXH3 of the fields above
};
static_assert(sizeof(ShardHeader) == 64);

// Collects one shard in memory and writes it.
class ShardBuilder {
 public:
  explicit ShardBuilder(int64_t vocabulary_size) : vocabulary_size_(vocabulary_size) {}

  void add_document(std::span<const int32_t> tokens, uint64_t raw_bytes);
  uint64_t tokens() const { return tokens_.size(); }
  // Writes, starts an empty shard and returns the payload's checksum. Throws Error naming the path when it
  // cannot be written.
  uint64_t write(const fs::path& path);

 private:
  int64_t vocabulary_size_;
  std::vector<int32_t> tokens_;
  std::vector<uint64_t> starts_;
  uint64_t raw_bytes_ = 0;
};

// A shard on disk, validated whole when opened: sizes, both checksums, every token below the vocabulary,
// documents in order. Throws Error naming the file otherwise.
class Shard {
 public:
  explicit Shard(const fs::path& path);

  uint64_t tokens() const { return header_.tokens; }
  uint64_t raw_bytes() const { return header_.raw_bytes; }
  uint64_t vocabulary_size() const { return header_.vocabulary_size; }
  uint64_t payload_checksum() const { return header_.payload_checksum; }
  // First tokens of the documents, ascending from 0; each document has at least one token.
  std::span<const uint64_t> document_starts() const { return starts_; }
  // Tokens [begin, begin + out.size()), which must exist.
  void read(uint64_t begin, std::span<int32_t> out) const;

 private:
  MappedFile file_;
  ShardHeader header_{};
  const std::byte* tokens_ = nullptr;
  std::span<const uint64_t> starts_;
};

// Bytes a token takes in a shard: 2 or 4.
uint32_t shard_token_bytes(uint64_t vocabulary_size);

}  // namespace moray
