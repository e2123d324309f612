// From a document to the tokens that are packed: fill-in-the-middle, splitting of joined tokens,
// end-of-sentence.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"

namespace moray {

struct DocumentEncoderOptions {
  // Share of the training documents that become fill-in-the-middle (V3: 0.1).
  double fim_rate = 0.1;
  // Share of the tokens joining punctuation and line breaks (")\n") that are split in two in training
  // documents, against token-boundary bias (V3 gives no figure).
  double split_rate = 0.1;
  // Ends every document.
  std::string end_token = std::string(kEndOfSentence);
};

// A document cut in three for fill-in-the-middle, at beginnings of characters; each part may be empty.
struct FimParts {
  std::string_view prefix, middle, suffix;
};
// The two cuts are drawn by `key` alone.
FimParts cut_for_fim(std::string_view text, uint64_t key);

// For one thread.
class DocumentEncoder {
 public:
  // Throws Error for rates outside [0, 1] and for special tokens the tokenizer lacks.
  DocumentEncoder(const Tokenizer& tokenizer, DocumentEncoderOptions options);

  // Appends a training document: with probability fim_rate in PSM order
  //   <｜fim_begin｜> prefix <｜fim_hole｜> suffix <｜fim_end｜> middle, end token
  // else its text and the end token. All choices are drawn by `key` alone. Returns whether it became FIM.
  bool encode_training(std::string_view text, uint64_t key, std::vector<int32_t>& ids);
  // Appends the text and the end token.
  void encode_held_out(std::string_view text, std::vector<int32_t>& ids);

  // The tokens a joined token splits into; empty for others.
  const std::vector<int32_t>& split_of(int32_t id) const { return splits_[static_cast<size_t>(id)]; }

 private:
  void split_joined_tokens(uint64_t key, size_t first, std::vector<int32_t>& ids);

  DocumentEncoderOptions options_;
  Encoder encoder_;
  std::vector<std::vector<int32_t>> splits_;  // by token
  std::vector<int32_t> scratch_;
  int32_t end_id_ = 0, fim_begin_id_ = 0, fim_hole_id_ = 0, fim_end_id_ = 0;
};

}  // namespace moray
