// Byte-level BPE tokenizers: Hugging Face's tokenizer.json, tiktoken's ranks, the vocabulary of a GGUF file.
// Any bytes encode, and decode to themselves (but for a normalizer, and added tokens that swallow spaces).
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

// Ids beyond this are a damaged file, not a vocabulary (the largest published ones have some 260,000 tokens).
inline constexpr int32_t kMaxVocabulary = 1 << 20;
// A token may be joined of different parts: published vocabularies have up to three merges a token.
inline constexpr size_t kMaxMerges = size_t{4} * kMaxVocabulary;

// A token outside the byte-pair encoding, written in text as `content`.
struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = true;      // control tokens; false for those that belong to the text, such as <think>
  bool lstrip = false;      // takes the white space before it along
  bool rstrip = false;      // and the one after it
  bool normalized = false;  // looked for in the normalized text, after all the others

  bool operator==(const AddedToken&) const = default;

  // Neither a control token nor written in brackets: a word that the byte-pair encoding lacks (V2's "ø").
  bool is_word() const {
    const auto in = [&](char open, char close) { return content.front() == open && content.back() == close; };
    return !special && !in('<', '>') && !in('[', ']');
  }
};

// What becomes of a text before all else.
enum class Normalizer { none, nfc };

// Whether added tokens written in a text become those tokens (parse) or are plain text (ignore; but for
// words).
enum class SpecialTokens { ignore, parse };

// Everything a tokenizer is, as read from a file or made by training.
struct TokenizerParts {
  std::vector<std::string> token_bytes;  // by id; empty: no such token. Added tokens hold their content.
  std::vector<Merge> merges;             // by rank
  std::vector<AddedToken> added_tokens;
  // Tokens written outside the byte-level alphabet that are no added ones: they decode, but no text becomes
  // them.
  std::vector<int32_t> unreachable;
  Normalizer normalizer = Normalizer::none;
  std::vector<PreTokenizerSplit> splits;
  bool add_prefix_space = false;  // before every text between added tokens that begins with no space
  bool ignore_merges = false;     // a piece that is a token as a whole needs no merges
  bool ranks_are_ids = false;     // tiktoken: what merges first is what has the smallest id
  // The control tokens a model's folder names, as content; empty: none named.
  std::string begin_of_sentence, end_of_sentence, padding;
  bool add_begin_of_sentence = false;  // a prompt begins with it
};

// Immutable; copies share their content; all functions are safe to call from several threads.
class Tokenizer {
 public:
  // `json` is the text of a tokenizer.json; `source` names it in errors. Throws Error when it is no
  // byte-level BPE or uses what this reader does not know.
  static Tokenizer from_json(std::string json, const std::string& source);
  // `source` names the parts in errors; `json` is the tokenizer.json they came from, if they did.
  static Tokenizer from_parts(TokenizerParts parts, const std::string& source, std::string json = {});
  // A tokenizer.json, a tiktoken rank file, a GGUF file, or a model's folder that holds one (in this order;
  // with what its tokenizer_config.json adds).
  static Tokenizer read(const fs::path& path);

  // tokenizer.json and a minimal tokenizer_config.json into `folder`, which must exist.
  void write(const fs::path& folder) const;
  // The text it was read from, or what write_tokenizer_json makes of other kinds.
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
  // The tokens that the model's folder names.
  std::optional<int32_t> begin_of_sentence() const;
  std::optional<int32_t> end_of_sentence() const;
  // Puts the begin-of-sentence first, where this tokenizer's prompts have one and `ids` does not begin with
  // it.
  void begin_prompt(std::vector<int32_t>& ids) const;

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

  // Appends the tokens of `text` to `ids`. Throws Error for a byte that the vocabulary has no token for.
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
  void encode_normalized(std::string_view text, SpecialTokens special_tokens, std::vector<int32_t>& ids);
  void encode_plain(std::string_view text, std::vector<int32_t>& ids);
  void merge_piece(std::string_view piece, std::vector<int32_t>& ids);

  Tokenizer tokenizer_;
  Matcher matcher_;
  BpeMerger merger_;
  std::vector<int32_t> symbols_;
  std::vector<CacheEntry> cache_;
};

}  // namespace moray
