// Training of byte-level BPE tokenizers.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"

namespace moray {

struct BpeTrainOptions {
  // Tokens in all: special ones, 256 bytes, merges. Fewer when the text has no more pairs to merge.
  int64_t vocabulary_size = 8192;
  // A pair seen less often than this is not merged.
  int64_t min_pair_count = 2;
  // Text beyond this many bytes is not read: it bounds memory (about 60 bytes a distinct piece).
  int64_t max_text_bytes = int64_t{256} << 20;
  // Ids 0, 1, ... and the last ids: the layout of the V3 tokenizer.
  std::vector<AddedToken> first_tokens = {
      {0, std::string(kBeginOfSentence)}, {0, std::string(kEndOfSentence)}, {0, std::string(kPad)}};
  std::vector<AddedToken> last_tokens = {
      {0, std::string(kFimBegin)},       {0, std::string(kFimHole)},   {0, std::string(kFimEnd)},
      {0, std::string(kUser)},           {0, std::string(kAssistant)}, {0, std::string(kThinkBegin), false},
      {0, std::string(kThinkEnd), false}};
  std::vector<PreTokenizerSplit> splits = deepseek_v3_splits();
  // Called now and then with the merges made and wanted; may be empty.
  std::function<void(int64_t done, int64_t wanted)> progress = {};
};

// Fills `document` with the next text, false at the end.
using NextDocument = std::function<bool(std::string& document)>;

// The most frequent pair of neighbours merges first; of equals the one with the smallest ids. Counts are of
// all neighbouring positions (so "aaa" has two pairs). The result depends on the documents' content alone,
// not on their order. Throws Error when the vocabulary cannot hold the bytes and special tokens, or there is
// no text.
Tokenizer train_bpe(const NextDocument& next_document, const BpeTrainOptions& options);

}  // namespace moray
