#include "data/tokenizer_json.h"

#include <simdjson.h>

#include <algorithm>
#include <unordered_map>

#include "base/error.h"
#include "base/json.h"
#include "data/byte_level.h"

namespace moray {

namespace {
using simdjson::dom::element;

// Reads one tokenizer.json; every error names the file and the key.
class Reader {
 public:
  Reader(const std::string& source, TokenizerParts& parts) : source_(source), parts_(parts) {}

  void read(element root) {
    if (!root.is_object()) fail("{}: not a JSON object", source_);
    element step;
    if (optional(root, "normalizer", step)) read_normalizer(step, 0);
    const element model = required(root, "model", "model");
    check_model(model);
    read_vocabulary(required(model, "vocab", "model.vocab"));
    read_added_tokens(root);
    read_bytes();
    read_merges(required(model, "merges", "model.merges"));
    read_pre_tokenizer(required(root, "pre_tokenizer", "pre_tokenizer"), 0);
    if (!byte_level_) fail("{}: pre_tokenizer: no ByteLevel step: not a byte-level tokenizer", source_);
    if (optional(root, "decoder", step)) check_decoder(step, 0);
    if (optional(root, "post_processor", step)) read_post_processor(step, 0);
  }

 private:
  element required(element object, std::string_view key, std::string_view path) const {
    element value;
    if (object[key].get(value) != simdjson::SUCCESS) fail("{}: {} is missing", source_, path);
    return value;
  }

  // The value at `key`, or nothing when it is absent or null.
  static bool optional(element object, std::string_view key, element& value) {
    return object[key].get(value) == simdjson::SUCCESS && !value.is_null();
  }

  std::string_view text(element value, std::string_view path) const {
    std::string_view result;
    if (value.get(result) != simdjson::SUCCESS) fail("{}: {} is not a string", source_, path);
    return result;
  }

  bool flag(element object, std::string_view key, bool fallback) const {
    element value;
    if (!optional(object, key, value)) return fallback;
    bool result = fallback;
    if (value.get(result) != simdjson::SUCCESS) fail("{}: {} is neither true nor false", source_, key);
    return result;
  }

  int32_t id(element value, std::string_view path) const {
    int64_t number = -1;
    if (value.get(number) != simdjson::SUCCESS || number < 0 || number >= kMaxVocabulary)
      fail("{}: {}: a token id is not a whole number in 0 .. {}", source_, path, kMaxVocabulary - 1);
    return static_cast<int32_t>(number);
  }

  simdjson::dom::array list(element value, std::string_view path) const {
    simdjson::dom::array result;
    if (value.get(result) != simdjson::SUCCESS) fail("{}: {} is not a list", source_, path);
    return result;
  }

  void read_normalizer(element step, int depth) {
    if (depth > 8) fail("{}: normalizer: nested too deeply", source_);
    const std::string_view type = text(required(step, "type", "normalizer.type"), "normalizer.type");
    if (type == "Sequence") {
      for (const element inner :
           list(required(step, "normalizers", "normalizer.normalizers"), "normalizer.normalizers"))
        read_normalizer(inner, depth + 1);
    } else if (type == "NFC") {
      parts_.normalizer = Normalizer::nfc;
    } else {
      fail("{}: normalizer: type '{}' is not supported", source_, type);
    }
  }

  void check_decoder(element step, int depth) const {
    if (depth > 8) fail("{}: decoder: nested too deeply", source_);
    const std::string_view type = text(required(step, "type", "decoder.type"), "decoder.type");
    if (type == "Sequence") {
      for (const element inner : list(required(step, "decoders", "decoder.decoders"), "decoder.decoders"))
        check_decoder(inner, depth + 1);
    } else if (type != "ByteLevel") {
      fail("{}: decoder: type '{}' is not supported", source_, type);
    }
  }

  // A post-processor changes ids only where it is a template that puts a token before the text.
  void read_post_processor(element step, int depth) {
    if (depth > 8) fail("{}: post_processor: nested too deeply", source_);
    const std::string_view type = text(required(step, "type", "post_processor.type"), "post_processor.type");
    if (type == "Sequence") {
      for (const element inner :
           list(required(step, "processors", "post_processor.processors"), "post_processor.processors"))
        read_post_processor(inner, depth + 1);
    } else if (type == "TemplateProcessing") {
      const auto single = list(required(step, "single", "post_processor.single"), "post_processor.single");
      element token, sequence;
      if (single.size() == 1 && optional(*single.begin(), "Sequence", sequence)) return;
      if (single.size() != 2 || !optional(*single.begin(), "SpecialToken", token) ||
          !optional(*++single.begin(), "Sequence", sequence))
        fail("{}: post_processor.single: only one token before the text is supported", source_);
      parts_.begin_of_sentence =
          text(required(token, "id", "post_processor.single.id"), "post_processor.single.id");
      parts_.add_begin_of_sentence = true;
    } else if (type != "ByteLevel") {
      fail("{}: post_processor: type '{}' is not supported", source_, type);
    }
  }

  void check_model(element model) {
    element value;
    if (optional(model, "type", value) && text(value, "model.type") != "BPE")
      fail("{}: model.type is '{}', not BPE", source_, text(value, "model.type"));
    double dropout = 0;
    if (optional(model, "dropout", value) && (value.get(dropout) != simdjson::SUCCESS || dropout != 0))
      fail("{}: model.dropout is not supported", source_);
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (optional(model, key, value) && !text(value, key).empty())
        fail("{}: model.{} is not supported", source_, key);
    if (flag(model, "byte_fallback", false)) fail("{}: model.byte_fallback is not supported", source_);
    parts_.ignore_merges = flag(model, "ignore_merges", false);
  }

  void place(int32_t token, std::string_view content) {
    if (static_cast<size_t>(token) >= content_.size()) content_.resize(static_cast<size_t>(token) + 1);
    std::string_view& slot = content_[static_cast<size_t>(token)];
    if (!slot.empty() && slot != content) fail("{}: two tokens have the id {}", source_, token);
    slot = content;
  }

  void read_vocabulary(element vocabulary) {
    simdjson::dom::object object;
    if (vocabulary.get(object) != simdjson::SUCCESS) fail("{}: model.vocab is not an object", source_);
    for (const auto& [key, value] : object) {
      const int32_t token = id(value, "model.vocab");
      place(token, key);
      if (!ids_.emplace(key, token).second) fail("{}: model.vocab has the token '{}' twice", source_, key);
    }
  }

  void read_added_tokens(element root) {
    element added;
    if (!optional(root, "added_tokens", added)) return;
    for (const element token : list(added, "added_tokens")) {
      const std::string_view content =
          text(required(token, "content", "added_tokens.content"), "added_tokens.content");
      if (content.empty()) fail("{}: added_tokens: a token is empty", source_);
      if (flag(token, "single_word", false))
        fail("{}: added token '{}': single_word is not supported", source_, content);
      const int32_t number = id(required(token, "id", "added_tokens.id"), "added_tokens.id");
      place(number, content);
      const bool special = flag(token, "special", false);
      parts_.added_tokens.push_back({number, std::string(content), special, flag(token, "lstrip", false),
                                     flag(token, "rstrip", false), flag(token, "normalized", !special)});
    }
  }

  // Tokens are written in the byte-level alphabet; added ones, and those outside the alphabet, as they are.
  void read_bytes() {
    parts_.token_bytes.resize(content_.size());
    for (size_t token = 0; token < content_.size(); ++token) {
      auto bytes = from_byte_level(content_[token]);
      parts_.token_bytes[token] = bytes ? std::move(*bytes) : std::string(content_[token]);
    }
    std::vector<bool> added(content_.size());
    for (const AddedToken& token : parts_.added_tokens) {
      parts_.token_bytes[static_cast<size_t>(token.id)] = token.content;
      added[static_cast<size_t>(token.id)] = true;
    }
    for (size_t token = 0; token < content_.size(); ++token)
      if (!added[token] && !content_[token].empty() && !from_byte_level(content_[token]))
        parts_.unreachable.push_back(static_cast<int32_t>(token));
  }

  int32_t merged_id(std::string_view token, size_t rank) const {
    const auto found = ids_.find(token);
    if (found == ids_.end())
      fail("{}: model.merges: merge {} uses '{}', which is no token", source_, rank, token);
    return found->second;
  }

  void read_merges(element merges) {
    for (const element merge : list(merges, "model.merges")) {
      const size_t rank = parts_.merges.size();
      if (rank == kMaxMerges) fail("{}: model.merges: more than {} merges", source_, kMaxMerges);
      std::string_view left, right, joined;
      if (merge.get(joined) == simdjson::SUCCESS) {  // "a b"
        const size_t space = joined.find(' ');
        if (space == std::string_view::npos || joined.find(' ', space + 1) != std::string_view::npos)
          fail("{}: model.merges: merge {} is not two tokens: '{}'", source_, rank, joined);
        left = joined.substr(0, space);
        right = joined.substr(space + 1);
      } else {  // ["a", "b"]
        const auto pair = list(merge, "model.merges");
        if (pair.size() != 2)
          fail("{}: model.merges: merge {} has {} tokens, not 2", source_, rank, pair.size());
        left = text(*pair.begin(), "model.merges");
        right = text(*++pair.begin(), "model.merges");
      }
      parts_.merges.push_back(
          {merged_id(left, rank), merged_id(right, rank), merged_id(std::string(left) += right, rank)});
    }
  }

  void read_pre_tokenizer(element step, int depth) {
    if (depth > 8) fail("{}: pre_tokenizer: nested too deeply", source_);
    const std::string_view type = text(required(step, "type", "pre_tokenizer.type"), "pre_tokenizer.type");
    if (type == "Sequence") {
      for (const element inner : list(required(step, "pretokenizers", "pre_tokenizer.pretokenizers"),
                                      "pre_tokenizer.pretokenizers"))
        read_pre_tokenizer(inner, depth + 1);
      return;
    }
    if (byte_level_) fail("{}: pre_tokenizer: '{}' after ByteLevel is not supported", source_, type);
    if (type == "Split") {
      parts_.splits.push_back(split(step));
    } else if (type == "Digits") {
      const bool individual = flag(step, "individual_digits", false);
      parts_.splits.push_back({.pattern = R"(\p{N})",
                               .behavior = individual ? SplitBehavior::isolated : SplitBehavior::contiguous});
    } else if (type == "ByteLevel") {
      byte_level_ = true;
      if (flag(step, "add_prefix_space", true)) {
        if (!parts_.splits.empty())
          fail("{}: pre_tokenizer: add_prefix_space after a split is not supported", source_);
        parts_.add_prefix_space = true;
      }
      if (flag(step, "use_regex", true)) parts_.splits.push_back(gpt2_split());
    } else {
      fail("{}: pre_tokenizer: type '{}' is not supported", source_, type);
    }
  }

  PreTokenizerSplit split(element step) const {
    PreTokenizerSplit result;
    const element pattern = required(step, "pattern", "pre_tokenizer.pattern");
    element value;
    if (optional(pattern, "Regex", value)) {
      result.pattern = text(value, "pre_tokenizer.pattern.Regex");
    } else {
      result.pattern =
          text(required(pattern, "String", "pre_tokenizer.pattern"), "pre_tokenizer.pattern.String");
      result.syntax = Regex::Syntax::literal;
    }
    const std::string_view behavior = text(required(step, "behavior", "pre_tokenizer.behavior"), "behavior");
    if (behavior == "Isolated")
      result.behavior = SplitBehavior::isolated;
    else if (behavior == "Removed")
      result.behavior = SplitBehavior::removed;
    else if (behavior == "MergedWithPrevious")
      result.behavior = SplitBehavior::merged_with_previous;
    else if (behavior == "MergedWithNext")
      result.behavior = SplitBehavior::merged_with_next;
    else if (behavior == "Contiguous")
      result.behavior = SplitBehavior::contiguous;
    else
      fail("{}: pre_tokenizer: behavior '{}' is not known", source_, behavior);
    result.invert = flag(step, "invert", false);
    return result;
  }

  const std::string& source_;
  TokenizerParts& parts_;
  std::vector<std::string_view> content_;  // by id, as written
  std::unordered_map<std::string_view, int32_t> ids_;
  bool byte_level_ = false;
};

std::string_view behavior_name(SplitBehavior behavior) {
  switch (behavior) {
    case SplitBehavior::isolated:
      return "Isolated";
    case SplitBehavior::removed:
      return "Removed";
    case SplitBehavior::merged_with_previous:
      return "MergedWithPrevious";
    case SplitBehavior::merged_with_next:
      return "MergedWithNext";
    case SplitBehavior::contiguous:
      return "Contiguous";
  }
  return {};
}
}  // namespace

TokenizerParts parse_tokenizer_json(std::string_view json, const std::string& source) {
  simdjson::dom::parser parser;
  element root;
  if (const auto error = parser.parse(json.data(), json.size()).get(root); error != simdjson::SUCCESS)
    fail("{}: not valid JSON: {}", source, simdjson::error_message(error));
  TokenizerParts parts;
  Reader(source, parts).read(root);
  return parts;
}

std::string write_tokenizer_json(const TokenizerParts& parts) {
  std::vector<bool> as_written(parts.token_bytes.size());  // not in the byte-level alphabet
  for (const int32_t id : parts.unreachable) as_written[static_cast<size_t>(id)] = true;
  std::string json =
      "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [";
  const char* separator = "\n";
  for (const AddedToken& token : parts.added_tokens) {
    as_written[static_cast<size_t>(token.id)] = true;
    json += fmt::format(
        "{}    {{\"id\": {}, \"content\": {}, \"single_word\": false, \"lstrip\": {}, \"rstrip\": {}, "
        "\"normalized\": {}, \"special\": {}}}",
        separator, token.id, json_quote(token.content), token.lstrip, token.rstrip, token.normalized,
        token.special);
    separator = ",\n";
  }
  json += fmt::format(
      "\n  ],\n  \"normalizer\": {},\n  \"pre_tokenizer\": {{\n    \"type\": \"Sequence\",\n    "
      "\"pretokenizers\": [\n",
      parts.normalizer == Normalizer::nfc ? R"({"type": "NFC"})" : "null");
  for (const PreTokenizerSplit& split : parts.splits) {
    if (parts.add_prefix_space) break;  // ByteLevel's own split, below
    json += fmt::format(
        "      {{\"type\": \"Split\", \"pattern\": {{\"{}\": {}}}, \"behavior\": \"{}\", \"invert\": {}}},\n",
        split.syntax == Regex::Syntax::literal ? "String" : "Regex", json_quote(split.pattern),
        behavior_name(split.behavior), split.invert);
  }
  const auto byte_level = [](bool add_prefix_space, bool use_regex) {
    return fmt::format(
        R"({{"type": "ByteLevel", "add_prefix_space": {}, "trim_offsets": true, "use_regex": {}}})",
        add_prefix_space, use_regex);
  };
  const std::string plain = byte_level(false, false);
  json += fmt::format(
      "      {}\n    ]\n  }},\n  \"post_processor\": {},\n  \"decoder\": {},\n  \"model\": {{\n    \"type\": "
      "\"BPE\",\n"
      "    \"dropout\": null,\n    \"unk_token\": null,\n    \"continuing_subword_prefix\": null,\n"
      "    \"end_of_word_suffix\": null,\n    \"fuse_unk\": false,\n    \"byte_fallback\": false,\n"
      "    \"ignore_merges\": {},\n    \"vocab\": {{",
      parts.add_prefix_space ? byte_level(true, !parts.splits.empty()) : plain, plain, plain,
      parts.ignore_merges);
  separator = "\n";
  for (size_t id = 0; id < parts.token_bytes.size(); ++id) {
    const std::string& bytes = parts.token_bytes[id];
    if (bytes.empty()) continue;
    // Added tokens stand here too: Hugging Face numbers those anew that the model does not know.
    json += fmt::format("{}      {}: {}", separator,
                        json_quote(as_written[id] ? bytes : to_byte_level(bytes)), id);
    separator = ",\n";
  }
  json += "\n    },\n    \"merges\": [";
  separator = "\n";
  for (const Merge& merge : parts.merges) {
    const auto quoted = [&](int32_t id) {
      return json_quote(to_byte_level(parts.token_bytes[static_cast<size_t>(id)]));
    };
    json += fmt::format("{}      [{}, {}]", separator, quoted(merge.left), quoted(merge.right));
    separator = ",\n";
  }
  return json + "\n    ]\n  }\n}\n";
}

}  // namespace moray
