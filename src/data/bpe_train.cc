#include "data/bpe_train.h"

#include <algorithm>
#include <numeric>
#include <queue>
#include <set>
#include <unordered_set>

#include "base/error.h"
#include "data/byte_level.h"
#include "data/tokenizer_json.h"

namespace moray {

namespace {
constexpr int64_t kBytes = 256;
constexpr int64_t kMaxVocabulary = int64_t{1} << 22;  // what tokenizer.json's reader accepts
constexpr int64_t kMergesBetweenReports = 64;

struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};
using PieceCounts = std::unordered_map<std::string, int64_t, StringHash, std::equal_to<>>;

PieceCounts count_pieces(const NextDocument& next_document, const BpeTrainOptions& options) {
  const PreTokenizer pre_tokenizer(options.splits);
  Matcher matcher;
  PieceCounts counts;
  std::string document;
  int64_t bytes = 0;
  while (bytes < options.max_text_bytes && next_document(document)) {
    const auto room = static_cast<size_t>(options.max_text_bytes - bytes);
    const std::string_view text = std::string_view(document).substr(0, room);
    bytes += static_cast<int64_t>(text.size());
    pre_tokenizer.split(text, matcher, [&](std::string_view piece) {
      if (const auto found = counts.find(piece); found != counts.end())
        ++found->second;
      else
        counts.emplace(piece, 1);
    });
  }
  return counts;
}

// Counts of neighbouring pairs over all distinct pieces, kept up to date merge by merge.
class PairCounts {
 public:
  // Takes the pieces in byte order, so that nothing depends on the order of the map.
  PairCounts(const PieceCounts& pieces, const std::array<int32_t, kBytes>& byte_ids) {
    std::vector<const PieceCounts::value_type*> ordered;
    for (const auto& piece : pieces)
      if (piece.first.size() > 1) ordered.push_back(&piece);
    std::sort(ordered.begin(), ordered.end(), [](auto* a, auto* b) { return a->first < b->first; });
    words_.reserve(ordered.size());
    for (const auto* piece : ordered) {
      Word word{.first = symbols_.size(),
                .length = static_cast<uint32_t>(piece->first.size()),
                .count = piece->second};
      for (const char byte : piece->first) symbols_.push_back(byte_ids[static_cast<uint8_t>(byte)]);
      words_.push_back(word);
    }
    for (uint32_t word = 0; word < words_.size(); ++word) add_pairs(word);
    for (const auto& [pair, info] : pairs_) queue_.push({info.count, pair});
    queued_.clear();
  }

  // The next pair to merge, false when all are rarer than `min_count`.
  bool pop(int64_t min_count, int32_t& left, int32_t& right) {
    while (!queue_.empty()) {
      const Candidate top = queue_.top();
      queue_.pop();
      const auto found = pairs_.find(top.pair);
      if (found == pairs_.end() || found->second.count <= 0) continue;
      if (found->second.count != top.count) {  // it has fallen since: back to its place
        if (found->second.count < top.count) queue_.push({found->second.count, top.pair});
        continue;
      }
      if (top.count < min_count) return false;
      left = static_cast<int32_t>(top.pair >> 32);
      right = static_cast<int32_t>(top.pair & 0xffffffffu);
      return true;
    }
    return false;
  }

  void merge(int32_t left, int32_t right, int32_t result) {
    auto node = pairs_.extract(key(left, right));
    std::vector<uint32_t>& where = node.mapped().words;
    std::sort(where.begin(), where.end());
    where.erase(std::unique(where.begin(), where.end()), where.end());
    for (const uint32_t index : where) {
      Word& word = words_[index];
      if (!contains(word, left, right)) continue;  // merged away since it was noted
      remove_pairs(word);
      int32_t* symbols = &symbols_[word.first];
      uint32_t out = 0;
      for (uint32_t in = 0; in < word.length; ++in, ++out) {
        const bool merges = in + 1 < word.length && symbols[in] == left && symbols[in + 1] == right;
        symbols[out] = merges ? result : symbols[in];
        if (merges) ++in;
      }
      word.length = out;
      add_pairs(index);
    }
    pairs_.erase(key(left, right));  // what overlapping occurrences ("aaa") left behind
    for (const uint64_t pair : queued_)
      if (const auto found = pairs_.find(pair); found != pairs_.end())
        queue_.push({found->second.count, pair});
    queued_.clear();
  }

 private:
  struct Word {
    size_t first;  // in symbols_
    uint32_t length;
    int64_t count;
  };
  struct Pair {
    int64_t count = 0;
    std::vector<uint32_t> words;  // where it was ever seen; may repeat, may be out of date
  };
  struct Candidate {
    int64_t count;
    uint64_t pair;
    bool operator<(const Candidate& other) const {  // the queue's top: highest count, then smallest ids
      return count != other.count ? count < other.count : pair > other.pair;
    }
  };

  static uint64_t key(int32_t left, int32_t right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }

  bool contains(const Word& word, int32_t left, int32_t right) const {
    const int32_t* symbols = &symbols_[word.first];
    for (uint32_t i = 0; i + 1 < word.length; ++i)
      if (symbols[i] == left && symbols[i + 1] == right) return true;
    return false;
  }

  void add_pairs(uint32_t index) {
    const Word& word = words_[index];
    for (uint32_t i = 0; i + 1 < word.length; ++i) {
      const uint64_t pair = key(symbols_[word.first + i], symbols_[word.first + i + 1]);
      Pair& info = pairs_[pair];
      info.count += word.count;
      if (info.words.empty() || info.words.back() != index) info.words.push_back(index);
      queued_.insert(pair);
    }
  }

  void remove_pairs(const Word& word) {
    for (uint32_t i = 0; i + 1 < word.length; ++i)
      if (const auto found = pairs_.find(key(symbols_[word.first + i], symbols_[word.first + i + 1]));
          found != pairs_.end())
        found->second.count -= word.count;
  }

  std::vector<int32_t> symbols_;
  std::vector<Word> words_;
  std::unordered_map<uint64_t, Pair> pairs_;
  std::unordered_set<uint64_t> queued_;  // pairs whose count rose in the merge at hand
  std::priority_queue<Candidate> queue_;
};

void add_special(std::vector<AddedToken> tokens, TokenizerParts& parts) {
  for (AddedToken& token : tokens) {
    if (token.content.empty()) fail("a special token is empty");
    token.id = static_cast<int32_t>(parts.token_bytes.size());
    parts.token_bytes.push_back(token.content);
    parts.added_tokens.push_back(std::move(token));
  }
}

int64_t merges_wanted(const BpeTrainOptions& options) {
  std::set<std::string> names;
  for (const auto* list : {&options.first_tokens, &options.last_tokens})
    for (const AddedToken& token : *list)
      if (!names.insert(token.content).second) fail("special token '{}' is named twice", token.content);
  const int64_t fixed = kBytes + static_cast<int64_t>(names.size());
  if (options.vocabulary_size < fixed || options.vocabulary_size > kMaxVocabulary)
    fail("vocabulary size {} is outside {} (256 bytes and {} special tokens) .. {}", options.vocabulary_size,
         fixed, names.size(), kMaxVocabulary);
  return options.vocabulary_size - fixed;
}
}  // namespace

Tokenizer train_bpe(const NextDocument& next_document, const BpeTrainOptions& options) {
  const int64_t wanted = merges_wanted(options);
  TokenizerParts parts;
  parts.splits = options.splits;
  add_special(options.first_tokens, parts);

  std::array<uint8_t, kBytes> bytes;  // in the order of their characters, as Hugging Face numbers them
  std::iota(bytes.begin(), bytes.end(), uint8_t{0});
  std::sort(bytes.begin(), bytes.end(),
            [](uint8_t a, uint8_t b) { return byte_level_character(a) < byte_level_character(b); });
  std::array<int32_t, kBytes> byte_ids{};
  for (const uint8_t byte : bytes) {
    byte_ids[byte] = static_cast<int32_t>(parts.token_bytes.size());
    parts.token_bytes.emplace_back(1, static_cast<char>(byte));
  }

  const PieceCounts pieces = count_pieces(next_document, options);
  if (pieces.empty()) fail("cannot train a tokenizer: the corpus has no text");
  PairCounts pairs(pieces, byte_ids);
  std::unordered_map<std::string, int32_t>
      known;  // two pairs may join to the same bytes: one token, two merges
  std::set<std::pair<int32_t, int32_t>> merged;
  int64_t made = 0;
  int32_t left = 0, right = 0;
  while (made < wanted && pairs.pop(options.min_pair_count, left, right)) {
    std::string joined =
        parts.token_bytes[static_cast<size_t>(left)] + parts.token_bytes[static_cast<size_t>(right)];
    const auto [entry, is_new] = known.emplace(joined, static_cast<int32_t>(parts.token_bytes.size()));
    if (is_new) {
      parts.token_bytes.push_back(std::move(joined));
      ++made;
    }
    // A pair can form anew when a later pair joins to the same bytes as one of its halves: its merge stands
    // already.
    if (merged.emplace(left, right).second) parts.merges.push_back({left, right, entry->second});
    pairs.merge(left, right, entry->second);
    if (options.progress && (made % kMergesBetweenReports == 0 || made == wanted))
      options.progress(made, wanted);
  }
  add_special(options.last_tokens, parts);
  return Tokenizer::from_json(write_tokenizer_json(parts), "the trained tokenizer");
}

}  // namespace moray
