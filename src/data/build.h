// From corpora to a dataset folder:
//   dataset.json  tokenizer.json  tokenizer_config.json  train-CORPUS-00000.bin ... held_out-CORPUS-00000.bin
//   ... held_out.txt (the held-out documents' bytes as one stream)
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "data/dataset_manifest.h"
#include "data/document_encoder.h"
#include "data/document_stream.h"

namespace moray {

struct BuildProgress {
  int64_t documents = 0;
  uint64_t bytes = 0;
  uint64_t tokens = 0;
};

struct BuildOptions {
  std::vector<CorpusSource> corpora = {};
  HeldOutOptions held_out = {};  // its seed also draws fill-in-the-middle and splits
  DocumentEncoderOptions documents = {};
  int threads = 0;                          // 0: one a core
  bool replace = false;                     // an existing dataset folder is replaced
  int64_t shard_tokens = int64_t{1} << 25;  // a shard is closed by the first document that reaches it
  std::function<void(const BuildProgress&)> progress =
      {};  // called after every batch of documents; may be empty
};

// Builds `folder`, which appears whole or not at all. The same inputs give the same bytes, whatever the
// number of threads. Throws Error for unreadable corpora, a tokenizer without the special tokens, an existing
// folder, a full disk, and when no document is left for training.
DatasetManifest build_dataset(const Tokenizer& tokenizer, const fs::path& folder,
                              const BuildOptions& options);

}  // namespace moray
