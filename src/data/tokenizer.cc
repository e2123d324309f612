#include "data/tokenizer.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/error.h"
#include "base/json.h"
#include "data/tokenizer_json.h"

namespace moray {

struct Tokenizer::Impl {
  explicit Impl(TokenizerParts from, std::string text)
      : parts(std::move(from)), merges(parts.merges), pre_tokenizer(parts.splits), json(std::move(text)) {}

  TokenizerParts parts;
  MergeTable merges;
  PreTokenizer pre_tokenizer;
  std::string json;
  std::array<int32_t, 256> byte_ids{};
  std::unordered_map<std::string_view, int32_t> ids;  // of the tokens of the byte-pair encoding
  std::unordered_map<std::string_view, int32_t> added_ids;
  std::vector<bool> special;                                      // by id
  std::array<std::vector<const AddedToken*>, 256> by_first_byte;  // longest first

  // The added token that begins first in `text`, the longest among those; nullptr when there is none.
  const AddedToken* find_added(std::string_view text, size_t& position) const {
    for (size_t i = 0; i < text.size(); ++i)
      for (const AddedToken* token : by_first_byte[static_cast<uint8_t>(text[i])])
        if (text.substr(i, token->content.size()) == token->content) {
          position = i;
          return token;
        }
    return nullptr;
  }
};

Tokenizer Tokenizer::from_json(std::string json, const std::string& source) {
  auto impl = std::make_shared<Impl>(parse_tokenizer_json(json, source), std::move(json));
  const TokenizerParts& parts = impl->parts;
  impl->special.resize(parts.token_bytes.size());
  for (const AddedToken& token : parts.added_tokens) {
    impl->added_ids.emplace(token.content, token.id);
    impl->special[static_cast<size_t>(token.id)] = token.special;
    impl->by_first_byte[static_cast<uint8_t>(token.content[0])].push_back(&token);
  }
  for (auto& tokens : impl->by_first_byte)
    std::stable_sort(tokens.begin(), tokens.end(), [](const AddedToken* a, const AddedToken* b) {
      return a->content.size() > b->content.size();
    });
  std::vector<bool> added(parts.token_bytes.size());
  for (const AddedToken& token : parts.added_tokens) added[static_cast<size_t>(token.id)] = true;
  for (size_t id = 0; id < parts.token_bytes.size(); ++id)
    if (!parts.token_bytes[id].empty() && !added[id])
      impl->ids.emplace(parts.token_bytes[id], static_cast<int32_t>(id));
  for (size_t byte = 0; byte < 256; ++byte) {
    const char as_char = static_cast<char>(byte);
    const auto found = impl->ids.find(std::string_view(&as_char, 1));
    if (found == impl->ids.end()) fail("{}: no token for byte {}: not a byte-level vocabulary", source, byte);
    impl->byte_ids[byte] = found->second;
  }
  return Tokenizer(std::move(impl));
}

Tokenizer Tokenizer::read(const fs::path& path) {
  std::error_code error;
  const fs::path file = fs::is_directory(path, error) ? path / "tokenizer.json" : path;
  return from_json(read_file(file), file.string());
}

void Tokenizer::write(const fs::path& folder) const {
  write_file_atomically(folder / "tokenizer.json", impl_->json);
  std::string config = "{\n";
  const auto name = [&](std::string_view key, std::string_view token) {
    if (id(token)) config += fmt::format("  \"{}\": {},\n", key, json_quote(token));
  };
  name("bos_token", kBeginOfSentence);
  name("eos_token", kEndOfSentence);
  name("pad_token", kPad);
  config +=
      "  \"add_bos_token\": false,\n  \"add_eos_token\": false,\n  \"clean_up_tokenization_spaces\": false,\n"
      "  \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n}\n";
  write_file_atomically(folder / "tokenizer_config.json", config);
}

const std::string& Tokenizer::json() const {
  return impl_->json;
}

uint64_t Tokenizer::checksum() const {
  return moray::checksum(std::as_bytes(std::span(impl_->json)));
}

int32_t Tokenizer::vocabulary_size() const {
  return static_cast<int32_t>(impl_->parts.token_bytes.size());
}

std::string_view Tokenizer::token_bytes(int32_t id) const {
  if (id < 0 || id >= vocabulary_size())
    fail("token id {} is outside the vocabulary of {}", id, vocabulary_size());
  return impl_->parts.token_bytes[static_cast<size_t>(id)];
}

std::optional<int32_t> Tokenizer::id(std::string_view token) const {
  if (const auto found = impl_->added_ids.find(token); found != impl_->added_ids.end()) return found->second;
  if (const auto found = impl_->ids.find(token); found != impl_->ids.end()) return found->second;
  return std::nullopt;
}

int32_t Tokenizer::required_id(std::string_view token) const {
  if (const auto found = id(token)) return *found;
  fail("the tokenizer has no token '{}'", token);
}

const std::vector<AddedToken>& Tokenizer::added_tokens() const {
  return impl_->parts.added_tokens;
}

bool Tokenizer::is_special(int32_t id) const {
  return id >= 0 && id < vocabulary_size() && impl_->special[static_cast<size_t>(id)];
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, SpecialTokens special_tokens) const {
  std::vector<int32_t> ids;
  Encoder(*this, 0).encode(text, special_tokens, ids);
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string bytes;
  for (const int32_t id : ids)
    if (const std::string_view token = token_bytes(id); !(skip_special && is_special(id))) bytes += token;
  return bytes;
}

Encoder::Encoder(Tokenizer tokenizer, size_t cache_entries)
    : tokenizer_(std::move(tokenizer)), cache_(cache_entries) {
  MORAY_CHECK(cache_entries == 0 || std::has_single_bit(cache_entries), "cache entries {}", cache_entries);
}

void Encoder::encode(std::string_view text, SpecialTokens special_tokens, std::vector<int32_t>& ids) {
  if (special_tokens == SpecialTokens::parse) {
    size_t position = 0;
    while (const AddedToken* token = tokenizer_.impl_->find_added(text, position)) {
      encode_plain(text.substr(0, position), ids);
      ids.push_back(token->id);
      text.remove_prefix(position + token->content.size());
    }
  }
  encode_plain(text, ids);
}

void Encoder::encode_plain(std::string_view text, std::vector<int32_t>& ids) {
  tokenizer_.impl_->pre_tokenizer.split(text, matcher_,
                                        [&](std::string_view piece) { encode_piece(piece, ids); });
}

void Encoder::encode_piece(std::string_view piece, std::vector<int32_t>& ids) {
  if (piece.empty()) return;
  if (cache_.empty() || piece.size() > kCachedBytes) return merge_piece(piece, ids);
  alignas(32) std::array<char, kCachedBytes> key{};
  std::memcpy(key.data(), piece.data(), piece.size());
  std::array<uint64_t, 4> words;
  std::memcpy(words.data(), key.data(), sizeof words);
  uint64_t hash = piece.size();
  for (const uint64_t word : words) hash = (std::rotl(hash, 23) ^ word) * 0x9e3779b97f4a7c15ull;
  CacheEntry& entry = cache_[(hash >> 32) & (cache_.size() - 1)];
  if (entry.length == piece.size() && std::memcmp(entry.piece.data(), key.data(), kCachedBytes) == 0) {
    ids.insert(ids.end(), entry.ids.begin(), entry.ids.begin() + entry.count);
    return;
  }
  const size_t first = ids.size();
  merge_piece(piece, ids);
  const size_t count = ids.size() - first;
  if (count > kCachedIds) return;
  entry.piece = key;
  entry.length = static_cast<uint8_t>(piece.size());
  entry.count = static_cast<uint8_t>(count);
  std::copy(ids.begin() + static_cast<ptrdiff_t>(first), ids.end(), entry.ids.begin());
}

void Encoder::merge_piece(std::string_view piece, std::vector<int32_t>& ids) {
  const Tokenizer::Impl& impl = *tokenizer_.impl_;
  if (impl.parts.ignore_merges) {
    if (const auto whole = impl.ids.find(piece); whole != impl.ids.end()) return ids.push_back(whole->second);
  }
  symbols_.resize(piece.size());
  std::transform(piece.begin(), piece.end(), symbols_.begin(),
                 [&](char byte) { return impl.byte_ids[static_cast<uint8_t>(byte)]; });
  merger_.merge(impl.merges, symbols_, ids);
}

}  // namespace moray
