// The documents of several corpora in order: without duplicates, each marked as training or held out.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "data/corpus.h"

namespace moray {

struct CorpusSource {
  std::string name = {};  // letters, digits, '-', '_', '.'; part of file names
  fs::path path = {};
  double weight = 0;  // share of the samples relative to the others'; 0: in proportion to its training tokens
  CorpusOptions options = {};
};

// Content decides, never the order of documents: the same text is held out in every corpus and every build.
struct HeldOutOptions {
  uint64_t seed = 0;
  double fraction = 0.05;  // of the documents; 0: none
};

struct StreamedDocument {
  Document document;
  size_t corpus = 0;  // index of its source
  uint64_t key = 0;   // of its content and the seed: the stream of its random choices
  bool held_out = false;
};

struct DocumentCounts {
  int64_t documents = 0;   // read, duplicates included
  int64_t duplicates = 0;  // of a document before, in any of the corpora
  SkippedDocuments skipped;
};

class DocumentStream {
 public:
  // Throws Error for bad names, weights, fractions and paths.
  DocumentStream(std::vector<CorpusSource> sources, HeldOutOptions held_out);

  bool next(StreamedDocument& document);
  // One an entry of the sources; complete once next() has returned false.
  const std::vector<DocumentCounts>& counts() const { return counts_; }

 private:
  struct ContentHash {
    uint64_t low, high;
    bool operator==(const ContentHash&) const = default;
  };
  struct TakeLow {
    size_t operator()(const ContentHash& hash) const { return hash.low; }
  };

  std::vector<CorpusSource> sources_;
  HeldOutOptions held_out_;
  size_t source_ = 0;
  std::optional<Corpus> corpus_;
  std::unordered_set<ContentHash, TakeLow> seen_;
  std::vector<DocumentCounts> counts_;
};

}  // namespace moray
