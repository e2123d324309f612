// Byte-level BPE tokenizers in Hugging Face's `tokenizer.json`. Any bytes encode, and decode to themselves.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/files.h"
#include "data/bpe.h"
#include "data/pre_tokenizer.h"

namespace moray {

// The special tokens of the V3 family, by their strings (ids differ between models: look them up).
inline constexpr std::string_view kBeginOfSentence = "<｜begin▁of▁sentence｜>";
inline constexpr std::string_view kEndOfSentence = "<｜end▁of▁sentence｜>";
inline constexpr std::string_view kPad = "<｜▁pad▁｜>";
inline constexpr std::string_view kFimBegin = "<｜fim_begin｜>";
inline constexpr std::string_view kFimHole = "<｜fim_hole｜>";
inline constexpr std::string_view kFimEnd = "<｜fim_end｜>";
inline constexpr std::string_view kUser = "<｜User｜>";
inline constexpr std::string_view kAssistant = "<｜Assistant｜>";
inline constexpr std::string_view kThinkBegin = "<think>";
inline constexpr std::string_view kThinkEnd = "</think>";

// A token outside the byte-pair encoding, written in text as `content`.
struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = true;  // control tokens; false for those that belong to the text, such as <think>
};

// Whether added tokens written in a text become those tokens (parse) or are plain text (ignore).
enum class SpecialTokens { ignore, parse };

// Everything a tokenizer is, as read from a file or made by training.
struct TokenizerParts {
  std::vector<std::string> token_bytes;  // by id; empty: no such token. Added tokens hold their content.
  std::vector<Merge> merges;             // by rank
  std::vector<AddedToken> added_tokens;
  std::vector<PreTokenizerSplit> splits;
  bool ignore_merges = false;  // a piece that is a token as a whole needs no merges
};

// Immutable; copies share their content; all functions are safe to call from several threads.
class Tokenizer {
 public:
  // `json` is the text of a tokenizer.json; `source` names it in errors. Throws Error when it is no
  // byte-level BPE or uses what this reader does not know.
  static Tokenizer from_json(std::string json, const std::string& source);
  // A tokenizer.json, or the folder that holds one.
  static Tokenizer read(const fs::path& path);

  // tokenizer.json (the text it was read from) and a minimal tokenizer_config.json into `folder`, which must
  // exist.
  void write(const fs::path& folder) const;
  const std::string& json() const;
  uint64_t checksum() const;  // of json()

  int32_t vocabulary_size() const;  // the largest id + 1
  // The bytes a token stands for; empty for ids that name no token. Throws Error beyond the vocabulary.
  std::string_view token_bytes(int32_t id) const;
  // The id of a token given as its content; added tokens first.
  std::optional<int32_t> id(std::string_view token) const;
  int32_t required_id(std::string_view token) const;  // throws Error when there is none
  const std::vector<AddedToken>& added_tokens() const;
  bool is_special(int32_t id) const;

  // Appends nothing of its own (no begin-of-sentence). For many texts an Encoder is faster.
  std::vector<int32_t> encode(std::string_view text,
                              SpecialTokens special_tokens = SpecialTokens::ignore) const;
  // The concatenated bytes; control tokens are left out when `skip_special`. Throws Error beyond the
  // vocabulary.
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;

 private:
  friend class Encoder;
  struct Impl;
  explicit Tokenizer(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

// Encodes for one thread. Remembers the tokens of short pieces in a table of fixed size; results never depend
// on it.
class Encoder {
 public:
  static constexpr size_t kDefaultCacheEntries = size_t{1} << 16;  // 4 MiB

  // cache_entries: a power of two, or 0 for none.
  explicit Encoder(Tokenizer tokenizer, size_t cache_entries = kDefaultCacheEntries);

  // Appends the tokens of `text` to `ids`.
  void encode(std::string_view text, SpecialTokens special_tokens, std::vector<int32_t>& ids);
  // Appends the tokens of `piece` taken as one piece, without the pre-tokenizer.
  void encode_piece(std::string_view piece, std::vector<int32_t>& ids);

  const Tokenizer& tokenizer() const { return tokenizer_; }

 private:
  static constexpr size_t kCachedBytes = 32, kCachedIds = 7;
  struct alignas(64) CacheEntry {  // one cache line
    std::array<char, kCachedBytes> piece{};
    std::array<int32_t, kCachedIds> ids{};
    uint8_t length = 0;  // of the piece; 0: empty entry
    uint8_t count = 0;
  };
  void encode_plain(std::string_view text, std::vector<int32_t>& ids);
  void merge_piece(std::string_view piece, std::vector<int32_t>& ids);

  Tokenizer tokenizer_;
  Matcher matcher_;
  BpeMerger merger_;
  std::vector<int32_t> symbols_;
  std::vector<CacheEntry> cache_;
};

}  // namespace moray
