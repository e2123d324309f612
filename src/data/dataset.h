// A dataset folder, opened for training: sample n is a function of (seed, n) alone.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/dataset_manifest.h"
#include "data/shard.h"
#include "data/tokenizer.h"

namespace moray {

// Shards as one stream of tokens.
class TokenStream {
 public:
  void add(Shard shard);
  void append(TokenStream other);
  uint64_t tokens() const { return firsts_.empty() ? 0 : firsts_.back() + shards_.back().tokens(); }
  // Tokens [begin, begin + out.size()), which must exist.
  void read(uint64_t begin, std::span<int32_t> out) const;
  // For each of the positions [begin, begin + out.size()): where its document begins, as an index in the
  // window, 0 for documents begun before it.
  void document_starts(uint64_t begin, std::span<int32_t> out) const;

 private:
  size_t shard_of(uint64_t position) const;

  std::vector<Shard> shards_;
  std::vector<uint64_t> firsts_;  // the stream position of each shard's first token
};

// Which corpus a sample comes from: a fixed pattern with each corpus' share spread evenly over it.
class MixturePattern {
 public:
  struct Place {
    size_t corpus;
    uint64_t index;  // how many samples of this corpus come before
  };

  // Shares are positive; they are met within 1 / 4096, and no corpus is left out.
  explicit MixturePattern(const std::vector<double>& shares);
  MixturePattern() = default;
  Place at(uint64_t sample) const;

 private:
  std::vector<uint32_t> corpus_, rank_;  // by position in the pattern
  std::vector<uint64_t> counts_;         // by corpus
};

class Dataset {
 public:
  // Reads and checks everything: each shard whole, the tokenizer, the manifest. Throws Error naming the file.
  static Dataset open(const fs::path& folder, uint64_t seed = 0);

  const Tokenizer& tokenizer() const { return tokenizer_; }
  const DatasetManifest& manifest() const { return manifest_; }
  uint64_t train_tokens() const;  // of all corpora, once

  // Sample n of a run with this seed: a window of one corpus' packed tokens, and the extra_tokens that follow
  // it (1 + MTP depth, for the labels). tokens: sequence_length + extra_tokens. document_starts:
  // sequence_length; for each position t the index in this sample where the document of t begins (0 when it
  // began before). The corpus' stream is taken as a ring. An epoch cuts it into windows from a starting point
  // of its own and visits each once in an order of its own.
  void sample(uint64_t n, int64_t sequence_length, int64_t extra_tokens, std::span<int32_t> tokens,
              std::span<int32_t> document_starts) const;

  // The held-out stream: all corpora in order, documents end with the end token.
  uint64_t held_out_tokens() const { return held_out_.tokens(); }
  uint64_t held_out_bytes() const { return held_out_bytes_; }
  uint64_t held_out_documents() const { return held_out_documents_; }
  // Held-out tokens [begin, begin + tokens.size()), which must exist; document_starts as in sample(), may be
  // empty.
  void held_out_window(uint64_t begin, std::span<int32_t> tokens,
                       std::span<int32_t> document_starts = {}) const;
  // The held-out documents' bytes as one stream.
  fs::path held_out_text() const { return folder_ / "held_out.txt"; }

 private:
  Dataset(const fs::path& folder, uint64_t seed);

  fs::path folder_;
  DatasetManifest manifest_;
  Tokenizer tokenizer_;
  std::vector<TokenStream> train_;  // by corpus
  std::vector<uint64_t> keys_;      // by corpus: seed and name
  MixturePattern pattern_;
  TokenStream held_out_;
  uint64_t held_out_bytes_ = 0, held_out_documents_ = 0;
};

}  // namespace moray
