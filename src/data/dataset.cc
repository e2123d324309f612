#include "data/dataset.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/random.h"

namespace moray {

namespace {
constexpr uint64_t kPatternLength = 4096;
// Far beyond any sequence; keeps sums of indices in range.
constexpr int64_t kMaxWindow = int64_t{1} << 30;

// Reads `out.size()` tokens of the ring from `begin`, and where their documents begin (empty: not asked).
void read_ring(const TokenStream& stream, uint64_t begin, std::span<int32_t> out, std::span<int32_t> starts) {
  size_t done = 0;
  while (done < out.size()) {
    const uint64_t position = (begin + done) % stream.tokens();
    const size_t count = std::min<uint64_t>(out.size() - done, stream.tokens() - position);
    stream.read(position, out.subspan(done, count));
    if (done < starts.size()) {
      const auto part = starts.subspan(done, std::min(count, starts.size() - done));
      stream.document_starts(position, part);
      // Past the ring's seam a document begins at its first token.
      for (int32_t& start : part) start += static_cast<int32_t>(done);
    }
    done += count;
  }
}

TokenStream open_split(const fs::path& folder, const SplitManifest& split, const DatasetManifest& manifest) {
  TokenStream stream;
  uint64_t documents = 0, bytes = 0;
  for (const SplitManifest::File& file : split.shards) {
    const fs::path path = folder / file.name;
    Shard shard(path);
    if (shard.vocabulary_size() != static_cast<uint64_t>(manifest.vocabulary_size))
      fail("{}: made for a vocabulary of {}, the dataset's has {}", path.string(), shard.vocabulary_size(),
           manifest.vocabulary_size);
    if (shard.tokens() != file.tokens || shard.payload_checksum() != file.checksum)
      fail("{}: not the shard that dataset.json names", path.string());
    documents += shard.document_starts().size();
    bytes += shard.raw_bytes();
    stream.add(std::move(shard));
  }
  if (stream.tokens() != split.tokens || documents != split.documents || bytes != split.raw_bytes)
    fail("{}: its counts differ from the shards'", (folder / "dataset.json").string());
  return stream;
}
}  // namespace

void TokenStream::add(Shard shard) {
  if (shard.tokens() == 0) return;
  firsts_.push_back(tokens());
  shards_.push_back(std::move(shard));
}

void TokenStream::append(TokenStream other) {
  for (Shard& shard : other.shards_) add(std::move(shard));
}

size_t TokenStream::shard_of(uint64_t position) const {
  return static_cast<size_t>(std::upper_bound(firsts_.begin(), firsts_.end(), position) - firsts_.begin()) -
         1;
}

void TokenStream::read(uint64_t begin, std::span<int32_t> out) const {
  MORAY_CHECK(begin <= tokens() && out.size() <= tokens() - begin);
  while (!out.empty()) {
    const size_t index = shard_of(begin);
    const uint64_t inside = begin - firsts_[index];
    const size_t count = std::min<uint64_t>(out.size(), shards_[index].tokens() - inside);
    shards_[index].read(inside, out.first(count));
    begin += count;
    out = out.subspan(count);
  }
}

void TokenStream::document_starts(uint64_t begin, std::span<int32_t> out) const {
  MORAY_CHECK(begin <= tokens() && out.size() <= tokens() - begin);
  size_t done = 0;
  int32_t start = 0;
  while (done < out.size()) {
    const size_t index = shard_of(begin + done);
    const uint64_t inside = begin + done - firsts_[index];
    const size_t end = done + std::min<uint64_t>(out.size() - done, shards_[index].tokens() - inside);
    const auto starts = shards_[index].document_starts();
    auto next = std::lower_bound(starts.begin(), starts.end(), inside);
    const size_t offset = done;
    for (; done < end; ++done) {
      if (next != starts.end() && *next == inside + (done - offset)) {
        start = static_cast<int32_t>(done);
        ++next;
      }
      out[done] = start;
    }
  }
}

MixturePattern::MixturePattern(const std::vector<double>& shares) {
  MORAY_CHECK(!shares.empty() && shares.size() <= kPatternLength);
  double sum = 0;
  for (const double share : shares) sum += share;
  struct Slot {
    double position;
    uint32_t corpus, rank;
  };
  std::vector<Slot> slots;
  for (uint32_t corpus = 0; corpus < shares.size(); ++corpus) {
    const double exact = shares[corpus] / sum * static_cast<double>(kPatternLength);
    counts_.push_back(std::max<uint64_t>(1, static_cast<uint64_t>(std::floor(exact + 0.5))));
    for (uint32_t rank = 0; rank < counts_.back(); ++rank)
      slots.push_back({(rank + 0.5) / static_cast<double>(counts_.back()), corpus, rank});
  }
  std::sort(slots.begin(), slots.end(), [](const Slot& a, const Slot& b) {
    return a.position != b.position ? a.position < b.position : a.corpus < b.corpus;
  });
  for (const Slot& slot : slots) {
    corpus_.push_back(slot.corpus);
    rank_.push_back(slot.rank);
  }
}

MixturePattern::Place MixturePattern::at(uint64_t sample) const {
  const uint64_t round = sample / corpus_.size(), position = sample % corpus_.size();
  const size_t corpus = corpus_[position];
  return {corpus, round * counts_[corpus] + rank_[position]};
}

Dataset Dataset::open(const fs::path& folder, uint64_t seed) {
  std::error_code error;
  if (!fs::exists(folder / "dataset.json", error))
    fail("{}: no dataset here (dataset.json is missing); build one with: moray data build", folder.string());
  return Dataset(folder, seed);
}

Dataset::Dataset(const fs::path& folder, uint64_t seed)
    : folder_(folder),
      manifest_(read_dataset_manifest(folder / "dataset.json")),
      tokenizer_(Tokenizer::read(folder / "tokenizer.json")) {
  if (tokenizer_.checksum() != manifest_.tokenizer_checksum)
    fail("{}: not the tokenizer this dataset was built with", (folder / "tokenizer.json").string());
  if (tokenizer_.vocabulary_size() != manifest_.vocabulary_size)
    fail("{}: a vocabulary of {}, the tokenizer has {}", (folder / "dataset.json").string(),
         manifest_.vocabulary_size, tokenizer_.vocabulary_size());
  if (manifest_.corpora.empty() || manifest_.corpora.size() > kPatternLength)
    fail("{}: {} corpora, expected 1 .. {}", folder.string(), manifest_.corpora.size(), kPatternLength);

  std::vector<double> shares;
  double set_weight = 0, set_tokens = 0;
  for (const CorpusManifest& corpus : manifest_.corpora) {
    train_.push_back(open_split(folder, corpus.train, manifest_));
    if (train_.back().tokens() == 0)
      fail("{}: corpus '{}' has no training tokens", folder.string(), corpus.name);
    held_out_.append(open_split(folder, corpus.held_out, manifest_));
    held_out_bytes_ += corpus.held_out.raw_bytes;
    held_out_documents_ += corpus.held_out.documents;
    keys_.push_back(mix64(seed, name_stream(corpus.name)));
    if (corpus.weight > 0) {
      set_weight += corpus.weight;
      set_tokens += static_cast<double>(corpus.train.tokens);
    }
  }
  // Corpora without a weight weigh by their tokens, on the scale of those that have one.
  const double weight_of_token = set_tokens > 0 ? set_weight / set_tokens : 1;
  for (const CorpusManifest& corpus : manifest_.corpora)
    shares.push_back(corpus.weight > 0 ? corpus.weight
                                       : weight_of_token * static_cast<double>(corpus.train.tokens));
  pattern_ = MixturePattern(shares);

  const MappedFile text(held_out_text());
  if (text.bytes().size() != held_out_bytes_ || checksum(text.bytes()) != manifest_.held_out_checksum)
    fail("{}: damaged: its checksum differs", held_out_text().string());
}

uint64_t Dataset::train_tokens() const {
  uint64_t tokens = 0;
  for (const TokenStream& stream : train_) tokens += stream.tokens();
  return tokens;
}

void Dataset::sample(uint64_t n, int64_t sequence_length, int64_t extra_tokens, std::span<int32_t> tokens,
                     std::span<int32_t> document_starts) const {
  if (sequence_length <= 0 || extra_tokens < 0 || sequence_length > kMaxWindow || extra_tokens > kMaxWindow)
    fail("a sample of {} tokens and {} extra ones is not possible", sequence_length, extra_tokens);
  MORAY_CHECK(tokens.size() == static_cast<size_t>(sequence_length + extra_tokens) &&
              document_starts.size() == static_cast<size_t>(sequence_length));
  const auto [corpus, index] = pattern_.at(n);
  const TokenStream& stream = train_[corpus];
  const uint64_t length = static_cast<uint64_t>(sequence_length);
  const uint64_t windows = std::max<uint64_t>(1, stream.tokens() / length);
  const uint64_t epoch = index / windows;
  Random random(keys_[corpus], epoch);
  const uint64_t origin = random.below(stream.tokens());
  const uint64_t window = permuted_index(index % windows, windows, random.next());
  read_ring(stream, origin + window * length, tokens, document_starts);
}

void Dataset::held_out_window(uint64_t begin, std::span<int32_t> tokens,
                              std::span<int32_t> document_starts) const {
  if (begin > held_out_tokens() || tokens.size() > held_out_tokens() - begin)
    fail("held-out tokens {} .. {} asked for, there are {}", begin, begin + tokens.size(), held_out_tokens());
  held_out_.read(begin, tokens);
  if (!document_starts.empty()) held_out_.document_starts(begin, document_starts);
}

}  // namespace moray
