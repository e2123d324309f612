#include "data/shard.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace moray {

namespace {
constexpr std::array<char, 8> kMagic = {'M', 'O', 'R', 'A', 'Y', 'T', 'O', 'K'};
constexpr uint32_t kVersion = 1;
constexpr uint64_t kMaxCount = uint64_t{1} << 40;  // tokens and documents: keeps all sizes far from overflow

uint64_t padded_token_bytes(const ShardHeader& header) {
  return (header.tokens * header.token_bytes + 7) / 8 * 8;
}

uint64_t header_checksum(const ShardHeader& header) {
  return checksum(std::as_bytes(std::span(&header, 1)).first(offsetof(ShardHeader, header_checksum)));
}

template <class T>
int64_t largest(const std::byte* from, uint64_t count) {
  const T* tokens = reinterpret_cast<const T*>(from);
  T result = 0;
  for (uint64_t i = 0; i < count; ++i) result = std::max(result, tokens[i]);
  return result;
}
}  // namespace

uint32_t shard_token_bytes(uint64_t vocabulary_size) {
  return vocabulary_size <= 0x10000 ? 2 : 4;
}

void ShardBuilder::add_document(std::span<const int32_t> tokens, uint64_t raw_bytes) {
  starts_.push_back(tokens_.size());
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  raw_bytes_ += raw_bytes;
}

uint64_t ShardBuilder::write(const fs::path& path) {
  ShardHeader header{.magic = kMagic,
                     .version = kVersion,
                     .token_bytes = shard_token_bytes(static_cast<uint64_t>(vocabulary_size_)),
                     .vocabulary_size = static_cast<uint64_t>(vocabulary_size_),
                     .tokens = tokens_.size(),
                     .documents = starts_.size(),
                     .raw_bytes = raw_bytes_,
                     .payload_checksum = 0,
                     .header_checksum = 0};
  const uint64_t token_bytes = padded_token_bytes(header);
  std::vector<std::byte> payload(token_bytes + starts_.size() * sizeof(uint64_t));
  if (header.token_bytes == 2) {
    for (size_t i = 0; i < tokens_.size(); ++i) {
      const auto token = static_cast<uint16_t>(tokens_[i]);
      std::memcpy(&payload[2 * i], &token, 2);
    }
  } else if (!tokens_.empty()) {
    std::memcpy(payload.data(), tokens_.data(), tokens_.size() * sizeof(int32_t));
  }
  if (!starts_.empty())
    std::memcpy(payload.data() + token_bytes, starts_.data(), starts_.size() * sizeof(uint64_t));
  header.payload_checksum = checksum(payload);
  header.header_checksum = header_checksum(header);
  FileWriter writer(path);
  writer.write(&header, sizeof header);
  writer.write(payload.data(), payload.size());
  writer.finish();
  tokens_.clear();
  starts_.clear();
  raw_bytes_ = 0;
  return header.payload_checksum;
}

Shard::Shard(const fs::path& path) : file_(path) {
  const auto bytes = file_.bytes();
  const std::string name = path.string();
  if (bytes.size() < sizeof header_) fail("{}: cut short: {} bytes", name, bytes.size());
  std::memcpy(&header_, bytes.data(), sizeof header_);
  if (header_.magic != kMagic) fail("{}: not a token shard", name);
  if (header_.version != kVersion)
    fail("{}: shard version {}, this build reads {}", name, header_.version, kVersion);
  if (header_.header_checksum != header_checksum(header_))
    fail("{}: damaged: the header's checksum differs", name);
  if (header_.tokens > kMaxCount || header_.documents > header_.tokens ||
      header_.token_bytes != shard_token_bytes(header_.vocabulary_size))
    fail("{}: damaged: impossible counts in the header", name);
  const uint64_t token_bytes = padded_token_bytes(header_);
  const auto payload = bytes.subspan(sizeof header_);
  if (payload.size() != token_bytes + header_.documents * sizeof(uint64_t))
    fail("{}: {} bytes, but its header asks for {}: cut short or damaged", name, bytes.size(),
         sizeof header_ + token_bytes + header_.documents * sizeof(uint64_t));
  if (checksum(payload) != header_.payload_checksum) fail("{}: damaged: the checksum differs", name);
  tokens_ = payload.data();
  // The map begins at a page and every part is a multiple of 8 bytes, so that the numbers are aligned.
  starts_ = {reinterpret_cast<const uint64_t*>(payload.data() + token_bytes), header_.documents};

  const uint64_t greatest = static_cast<uint64_t>(
      header_.token_bytes == 2 ? largest<uint16_t>(tokens_, tokens()) : largest<uint32_t>(tokens_, tokens()));
  if (tokens() > 0 && greatest >= header_.vocabulary_size)
    fail("{}: token id {} is outside the vocabulary of {}", name, greatest, header_.vocabulary_size);
  if (starts_.empty() != (tokens() == 0) || (!starts_.empty() && starts_.front() != 0) ||
      std::adjacent_find(starts_.begin(), starts_.end(), std::greater_equal<>()) != starts_.end() ||
      (!starts_.empty() && starts_.back() >= tokens()))
    fail("{}: damaged: documents out of order", name);
}

void Shard::read(uint64_t begin, std::span<int32_t> out) const {
  MORAY_CHECK(begin <= tokens() && out.size() <= tokens() - begin);
  if (header_.token_bytes == 2) {
    const auto* tokens = reinterpret_cast<const uint16_t*>(tokens_) + begin;
    std::copy(tokens, tokens + out.size(), out.begin());
  } else if (!out.empty()) {
    std::memcpy(out.data(), tokens_ + begin * sizeof(int32_t), out.size() * sizeof(int32_t));
  }
}

}  // namespace moray
