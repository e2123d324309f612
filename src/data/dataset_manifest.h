// dataset.json: what a dataset folder holds and how it came about.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/files.h"

namespace moray {

// The packed tokens of one corpus in one split.
struct SplitManifest {
  struct File {
    std::string name;  // in the dataset's folder
    uint64_t tokens = 0;
    uint64_t checksum = 0;  // of the shard's payload
  };
  std::vector<File> shards;
  uint64_t documents = 0;
  uint64_t tokens = 0;
  uint64_t raw_bytes = 0;
};

struct CorpusManifest {
  std::string name;
  std::string path;
  double weight = 0;  // as set; 0: in proportion to the training tokens
  int64_t documents_read = 0, duplicates = 0, skipped_binary = 0, skipped_empty = 0;
  int64_t fim_documents = 0;
  SplitManifest train, held_out;
};

struct DatasetManifest {
  uint64_t seed = 0;
  double held_out_fraction = 0;
  double fim_rate = 0, split_rate = 0;
  std::string end_token;
  int64_t vocabulary_size = 0;
  uint64_t tokenizer_checksum = 0;  // of tokenizer.json
  uint64_t held_out_checksum = 0;   // of held_out.txt
  std::vector<CorpusManifest> corpora;
};

// The file ends with a checksum of its own text, so that a changed byte is noticed.
std::string write_dataset_manifest(const DatasetManifest& manifest);
// Throws Error naming the file.
DatasetManifest read_dataset_manifest(const fs::path& path);

}  // namespace moray
