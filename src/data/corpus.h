// Corpora: documents out of folders, text files and JSON lines, plain or compressed, one at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/files.h"

namespace moray {

struct Document {
  std::string name;  // the file, or file:line
  std::string text;  // any bytes without NUL, never empty
};

struct CorpusOptions {
  // The key of the text in a line of JSON.
  std::string text_key = "text";
  // File name endings taken from a folder (".py"; before .gz or .zst); empty: all.
  std::vector<std::string> suffixes = {};
  // A longer document is an error: it bounds memory against decompression bombs.
  uint64_t max_document_bytes = uint64_t{32} << 20;
  // A text file named as a corpus itself is cut, at ends of lines, into documents of at most this many bytes,
  // so that some of it can be held out.
  uint64_t text_document_bytes = uint64_t{16} << 10;
};

struct SkippedDocuments {
  int64_t binary = 0;  // with a NUL byte
  int64_t empty = 0;
};

// A corpus is
//  - a folder: every file below it in the byte order of the relative paths, hidden ones (".git") and symbolic
//  links to
//    folders left out; a .jsonl holds one document a line, any other file is one document;
//  - a .jsonl file;
//  - any other file, as text, cut into documents.
// Each may end in .gz or .zst. What it reads is the same on every machine.
class Corpus {
 public:
  // Throws Error when `path` does not exist or a folder holds no file.
  Corpus(const fs::path& path, CorpusOptions options);
  ~Corpus();
  Corpus(Corpus&&) noexcept;
  Corpus& operator=(Corpus&&) noexcept;

  // The next document, false at the end. Throws Error naming the file (and line) when it cannot be read.
  bool next(Document& document);
  const SkippedDocuments& skipped() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moray
