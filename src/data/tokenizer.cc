#include "data/tokenizer.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <mutex>

#include "base/error.h"
#include "base/json.h"
#include "base/utf8.h"
#include "data/normalize.h"
#include "data/tokenizer_file.h"
#include "data/tokenizer_json.h"

namespace moray {

namespace {
// Finds added tokens in a text.
class AddedTokenFinder {
 public:
  // Where a token was found: [begin, end) of the text, with the white space it takes along.
  struct Found {
    const AddedToken* token;
    size_t begin, end;
  };

  explicit AddedTokenFinder(const std::vector<const AddedToken*>& tokens) : empty_(tokens.empty()) {
    for (const AddedToken* token : tokens)
      by_first_byte_[static_cast<uint8_t>(token->content[0])].push_back(token);
    for (auto& same : by_first_byte_)
      std::stable_sort(same.begin(), same.end(), [](const AddedToken* a, const AddedToken* b) {
        return a->content.size() > b->content.size();
      });
  }

  // The token that begins first in `text`, the longest among those.
  std::optional<Found> find(std::string_view text) const {
    if (empty_) return std::nullopt;
    for (size_t i = 0; i < text.size(); ++i)
      for (const AddedToken* token : by_first_byte_[static_cast<uint8_t>(text[i])])
        if (text.substr(i, token->content.size()) == token->content) {
          Found found{token, i, i + token->content.size()};
          if (token->lstrip) found.begin -= trailing_white_space(text.substr(0, i));
          if (token->rstrip) found.end += leading_white_space(text.substr(found.end));
          return found;
        }
    return std::nullopt;
  }

 private:
  std::array<std::vector<const AddedToken*>, 256> by_first_byte_;  // longest first
  bool empty_ = true;  // the common case: texts need no looking through
};
}  // namespace

struct Tokenizer::Impl {
  explicit Impl(TokenizerParts from)
      : parts(std::move(from)),
        merges(parts.merges, parts.ranks_are_ids ? MergeRank::result : MergeRank::index),
        pre_tokenizer(parts.splits),
        all_added(make_finders(false)),
        added_words(make_finders(true)) {}

  TokenizerParts parts;
  MergeTable merges;
  PreTokenizer pre_tokenizer;
  mutable std::string json;  // made when it is first asked for
  mutable std::once_flag json_made;
  std::array<int32_t, 256> byte_ids{};                // -1: none
  std::unordered_map<std::string_view, int32_t> ids;  // of the tokens of the byte-pair encoding
  std::unordered_map<std::string_view, int32_t> added_ids;
  std::vector<bool> special;  // by id
  struct Finders {
    AddedTokenFinder raw, normalized;
  };
  Finders all_added, added_words;

  Finders make_finders(bool words_only) const {
    std::vector<const AddedToken*> raw, normalized;
    for (const AddedToken& token : parts.added_tokens)
      if (!words_only || token.is_word()) (token.normalized ? normalized : raw).push_back(&token);
    return {AddedTokenFinder(raw), AddedTokenFinder(normalized)};
  }

  const Finders& finders(SpecialTokens special_tokens) const {
    return special_tokens == SpecialTokens::parse ? all_added : added_words;
  }
};

Tokenizer Tokenizer::from_parts(TokenizerParts from, const std::string& source, std::string json) {
  auto impl = std::make_shared<Impl>(std::move(from));
  if (!json.empty()) std::call_once(impl->json_made, [&] { impl->json = std::move(json); });
  const TokenizerParts& parts = impl->parts;
  impl->special.resize(parts.token_bytes.size());
  std::vector<bool> outside(parts.token_bytes.size());  // of the byte-pair encoding
  for (const AddedToken& token : parts.added_tokens) {
    if (!impl->added_ids.emplace(token.content, token.id).second)
      fail("{}: two added tokens are written '{}'", source, token.content);
    impl->special[static_cast<size_t>(token.id)] = token.special;
    outside[static_cast<size_t>(token.id)] = true;
  }
  for (const int32_t id : parts.unreachable) outside[static_cast<size_t>(id)] = true;
  for (size_t id = 0; id < parts.token_bytes.size(); ++id)
    if (!parts.token_bytes[id].empty() && !outside[id])
      impl->ids.emplace(parts.token_bytes[id], static_cast<int32_t>(id));
  for (size_t byte = 0; byte < 256; ++byte) {
    const char as_char = static_cast<char>(byte);
    const auto found = impl->ids.find(std::string_view(&as_char, 1));
    impl->byte_ids[byte] = found == impl->ids.end() ? -1 : found->second;
  }
  if (std::all_of(impl->byte_ids.begin(), impl->byte_ids.end(), [](int32_t id) { return id < 0; }))
    fail("{}: no token for any byte: not a byte-level vocabulary", source);
  for (const std::string* token : {&parts.begin_of_sentence, &parts.end_of_sentence, &parts.padding})
    if (!token->empty() && !impl->added_ids.contains(*token) && !impl->ids.contains(*token))
      fail("{}: it names the control token '{}', which is no token", source, *token);
  if (parts.add_begin_of_sentence && parts.begin_of_sentence.empty())
    fail("{}: prompts are to begin with a begin-of-sentence token, but it names none", source);
  return Tokenizer(std::move(impl));
}

Tokenizer Tokenizer::from_json(std::string json, const std::string& source) {
  TokenizerParts parts = parse_tokenizer_json(json, source);
  return from_parts(std::move(parts), source, std::move(json));
}

Tokenizer Tokenizer::read(const fs::path& path) {
  return read_tokenizer(path);
}

void Tokenizer::write(const fs::path& folder) const {
  write_file_atomically(folder / "tokenizer.json", json());
  const TokenizerParts& parts = impl_->parts;
  std::string config = "{\n";
  const auto name = [&](std::string_view key, std::string_view named, std::string_view usual) {
    const std::string_view token = named.empty() ? usual : named;
    if (id(token)) config += fmt::format("  \"{}\": {},\n", key, json_quote(token));
  };
  name("bos_token", parts.begin_of_sentence, kBeginOfSentence);
  name("eos_token", parts.end_of_sentence, kEndOfSentence);
  name("pad_token", parts.padding, kPad);
  config += fmt::format(
      "  \"add_bos_token\": {},\n  \"add_eos_token\": false,\n  \"clean_up_tokenization_spaces\": false,\n"
      "  \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n}}\n",
      parts.add_begin_of_sentence);
  write_file_atomically(folder / "tokenizer_config.json", config);
}

const std::string& Tokenizer::json() const {
  std::call_once(impl_->json_made, [&] { impl_->json = write_tokenizer_json(impl_->parts); });
  return impl_->json;
}

uint64_t Tokenizer::checksum() const {
  return moray::checksum(std::as_bytes(std::span(json())));
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

std::optional<int32_t> Tokenizer::begin_of_sentence() const {
  return id(impl_->parts.begin_of_sentence);
}

std::optional<int32_t> Tokenizer::end_of_sentence() const {
  return id(impl_->parts.end_of_sentence);
}

void Tokenizer::begin_prompt(std::vector<int32_t>& ids) const {
  if (!impl_->parts.add_begin_of_sentence) return;
  const int32_t begin = *begin_of_sentence();
  if (ids.empty() || ids[0] != begin) ids.insert(ids.begin(), begin);
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

namespace {
// Calls plain(text) for what lies between the tokens that `finder` finds, and appends these to `ids`.
template <class Plain>
void split_at_tokens(const AddedTokenFinder& finder, std::string_view text, std::vector<int32_t>& ids,
                     Plain&& plain) {
  while (const auto found = finder.find(text)) {
    plain(text.substr(0, found->begin));
    ids.push_back(found->token->id);
    text.remove_prefix(found->end);
  }
  plain(text);
}
}  // namespace

void Encoder::encode(std::string_view text, SpecialTokens special_tokens, std::vector<int32_t>& ids) {
  split_at_tokens(tokenizer_.impl_->finders(special_tokens).raw, text, ids,
                  [&](std::string_view section) { encode_normalized(section, special_tokens, ids); });
}

void Encoder::encode_normalized(std::string_view text, SpecialTokens special_tokens,
                                std::vector<int32_t>& ids) {
  std::string normalized;
  if (tokenizer_.impl_->parts.normalizer == Normalizer::nfc) {
    normalized = normalize_nfc(text);
    text = normalized;
  }
  split_at_tokens(tokenizer_.impl_->finders(special_tokens).normalized, text, ids,
                  [&](std::string_view section) { encode_plain(section, ids); });
}

void Encoder::encode_plain(std::string_view text, std::vector<int32_t>& ids) {
  std::string prefixed;
  if (tokenizer_.impl_->parts.add_prefix_space && !text.empty() && text[0] != ' ') {
    prefixed.append(" ").append(text);
    text = prefixed;
  }
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
  for (size_t i = 0; i < piece.size(); ++i) {
    const auto byte = static_cast<uint8_t>(piece[i]);
    symbols_[i] = impl.byte_ids[byte];
    if (symbols_[i] < 0) fail("the tokenizer's vocabulary has no token for the byte 0x{:02x}", byte);
  }
  merger_.merge(impl.merges, symbols_, ids);
}

}  // namespace moray
