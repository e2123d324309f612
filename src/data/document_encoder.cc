#include "data/document_encoder.h"

#include <algorithm>

#include "base/error.h"
#include "base/random.h"

namespace moray {

FimParts cut_for_fim(std::string_view text, uint64_t key) {
  Random random(key, name_stream("fim cuts"));
  size_t first = next_character(text, random.below(text.size() + 1));
  size_t second = next_character(text, random.below(text.size() + 1));
  if (first > second) std::swap(first, second);
  return {text.substr(0, first), text.substr(first, second - first), text.substr(second)};
}

DocumentEncoder::DocumentEncoder(const Tokenizer& tokenizer, DocumentEncoderOptions options)
    : options_(std::move(options)),
      encoder_(tokenizer),
      splits_(static_cast<size_t>(tokenizer.vocabulary_size())) {
  for (const auto& [name, rate] :
       {std::pair{"fim_rate", options_.fim_rate}, {"split_rate", options_.split_rate}})
    if (!(rate >= 0 && rate <= 1)) fail("{} {} is outside [0, 1]", name, rate);
  end_id_ = tokenizer.required_id(options_.end_token);
  if (options_.fim_rate > 0) {
    fim_begin_id_ = tokenizer.required_id(kFimBegin);
    fim_hole_id_ = tokenizer.required_id(kFimHole);
    fim_end_id_ = tokenizer.required_id(kFimEnd);
  }
  // A joined token: punctuation or symbols right before its line breaks.
  const Regex joined(R"(^[^\r\n]*[\p{P}\p{S}](?=[\r\n]+$))");
  Matcher matcher;
  for (int32_t id = 0; id < tokenizer.vocabulary_size(); ++id) {
    const std::string_view bytes = tokenizer.token_bytes(id);
    size_t begin = 0, cut = 0;
    if (bytes.empty() || valid_utf8_prefix(bytes) < bytes.size() ||
        !matcher.find(joined, bytes, 0, begin, cut))
      continue;
    encoder_.encode_piece(bytes.substr(0, cut), splits_[static_cast<size_t>(id)]);
    encoder_.encode_piece(bytes.substr(cut), splits_[static_cast<size_t>(id)]);
  }
}

bool DocumentEncoder::encode_training(std::string_view text, uint64_t key, std::vector<int32_t>& ids) {
  const size_t first = ids.size();
  const bool fim = Random(key, name_stream("fim")).uniform() < options_.fim_rate;
  if (fim) {
    const FimParts parts = cut_for_fim(text, key);
    ids.push_back(fim_begin_id_);
    encoder_.encode(parts.prefix, SpecialTokens::ignore, ids);
    ids.push_back(fim_hole_id_);
    encoder_.encode(parts.suffix, SpecialTokens::ignore, ids);
    ids.push_back(fim_end_id_);
    encoder_.encode(parts.middle, SpecialTokens::ignore, ids);
  } else {
    encoder_.encode(text, SpecialTokens::ignore, ids);
  }
  split_joined_tokens(key, first, ids);
  ids.push_back(end_id_);
  return fim;
}

void DocumentEncoder::encode_held_out(std::string_view text, std::vector<int32_t>& ids) {
  encoder_.encode(text, SpecialTokens::ignore, ids);
  ids.push_back(end_id_);
}

void DocumentEncoder::split_joined_tokens(uint64_t key, size_t first, std::vector<int32_t>& ids) {
  if (options_.split_rate == 0) return;
  Random random(key, name_stream("split"));
  scratch_.clear();
  for (size_t i = first; i < ids.size(); ++i) {
    const std::vector<int32_t>& parts = split_of(ids[i]);
    if (!parts.empty() && random.uniform() < options_.split_rate)
      scratch_.insert(scratch_.end(), parts.begin(), parts.end());
    else
      scratch_.push_back(ids[i]);
  }
  ids.resize(first);
  ids.insert(ids.end(), scratch_.begin(), scratch_.end());
}

}  // namespace moray
