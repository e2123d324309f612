// moray tokenizer train | encode | decode. Results go to stdout, everything else to stderr; mistakes throw
// Error.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/document_stream.h"

namespace moray {

struct TokenizerTrainOptions {
  std::vector<CorpusSource> corpora;  // folders, text files, .jsonl (see data/corpus.h)
  std::string output;  // folder for tokenizer.json and tokenizer_config.json; created when missing
  int64_t vocabulary_size = 8192;  // bytes, merges and special tokens together
  // The documents that `data build` holds out with the same two values are left out here too.
  HeldOutOptions held_out;
  int64_t max_text_bytes = int64_t{256} << 20;  // text beyond this is not read
  bool json = false;                            // one JSON object on stdout instead of a line
};
int run_tokenizer_train(const TokenizerTrainOptions& options);

struct TokenizerEncodeOptions {
  std::string tokenizer;        // tokenizer.json or a folder that holds one
  std::string text;             // the text itself ...
  std::string input;            // ... or a file; when both are empty, standard input
  bool special_tokens = false;  // special tokens written in the text become those tokens
  bool json = false;            // {"ids": [...], "count": n, "bytes": n} instead of ids with spaces between
};
int run_tokenizer_encode(const TokenizerEncodeOptions& options);

struct TokenizerDecodeOptions {
  std::string tokenizer;  // tokenizer.json or a folder that holds one
  std::vector<int64_t>
      ids;  // when empty, read from standard input: numbers with spaces, commas or brackets between
  bool skip_special = false;  // leave control tokens out
  bool json = false;          // {"text": "..."} (invalid UTF-8 replaced) instead of the bytes as they are
};
int run_tokenizer_decode(const TokenizerDecodeOptions& options);

}  // namespace moray
