#include "data/gguf_vocabulary.h"

#include <unordered_map>

#include "base/error.h"
#include "base/utf8.h"
#include "data/byte_level.h"
#include "data/gguf_metadata.h"

namespace moray {

namespace {
// Values of tokenizer.ggml.token_type.
enum TokenType : int64_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

// What a name in tokenizer.ggml.pre stands for.
struct PreTokenizerKind {
  std::vector<PreTokenizerSplit> splits;
  bool ignore_merges = false;
};

PreTokenizerKind pre_tokenizer_kind(std::string_view name, const std::string& source) {
  if (name == "deepseek-v3") return {deepseek_v3_splits()};
  if (name == "deepseek-llm") return {deepseek_llm_splits()};
  if (name == "deepseek-coder") return {deepseek_coder_splits()};
  if (name == "kimi-k2") return {{kimi_split()}, true};
  if (name == "gpt-2") return {{gpt2_split()}};
  fail(
      "{}: tokenizer.ggml.pre is '{}', which is not supported: only deepseek-v3, deepseek-llm, "
      "deepseek-coder, "
      "kimi-k2 and gpt-2",
      source, replace_invalid_utf8(name.substr(0, 80)));
}

void read_tokens(const GgufMetadata& gguf, const std::vector<std::string_view>& tokens,
                 TokenizerParts& parts) {
  if (tokens.empty() || tokens.size() > size_t{kMaxVocabulary})
    fail("{}: {} tokens, expected 1 to {}", gguf.source(), tokens.size(), kMaxVocabulary);
  const auto types = gguf.integers("tokenizer.ggml.token_type");
  if (types && types->size() != tokens.size())
    fail("{}: {} tokens but {} token types", gguf.source(), tokens.size(), types->size());
  parts.token_bytes.resize(tokens.size());
  for (size_t id = 0; id < tokens.size(); ++id) {
    const int64_t type = types ? (*types)[id] : kNormal;
    if (type == kUnused || tokens[id].empty()) continue;
    if (type == kByte)
      fail("{}: token {} is a byte of its own: not a byte-level vocabulary", gguf.source(), id);
    if (type < kNormal || type > kByte) fail("{}: token {} has the unknown type {}", gguf.source(), id, type);
    std::optional<std::string> bytes;
    if (type == kNormal) bytes = from_byte_level(tokens[id]);
    if (bytes) {
      parts.token_bytes[id] = std::move(*bytes);
      continue;
    }
    if (valid_utf8_prefix(tokens[id]) != tokens[id].size())
      fail("{}: token {} is no UTF-8", gguf.source(), id);
    parts.token_bytes[id] = tokens[id];
    if (type == kNormal)
      parts.unreachable.push_back(static_cast<int32_t>(id));
    else
      parts.added_tokens.push_back({.id = static_cast<int32_t>(id),
                                    .content = std::string(tokens[id]),
                                    .special = type != kUserDefined});
  }
}

void read_merges(const GgufMetadata& gguf, const std::vector<std::string_view>& tokens,
                 TokenizerParts& parts) {
  const auto merges = gguf.strings("tokenizer.ggml.merges");
  if (!merges) fail("{}: tokenizer.ggml.merges is missing", gguf.source());
  std::unordered_map<std::string_view, int32_t> ids;
  for (size_t id = 0; id < tokens.size(); ++id) ids.emplace(tokens[id], static_cast<int32_t>(id));
  parts.merges.reserve(merges->size());
  for (const std::string_view merge : *merges) {
    const size_t space = merge.find(' ', 1);
    const auto part = [&](const std::string& token) {
      const auto found = ids.find(token);
      if (found == ids.end())
        fail("{}: merge {} ('{}') uses what is no token", gguf.source(), parts.merges.size(),
             replace_invalid_utf8(merge.substr(0, 80)));
      return found->second;
    };
    const std::string left(merge.substr(0, space));
    const std::string right(space == std::string_view::npos ? "" : merge.substr(space + 1));
    parts.merges.push_back({part(left), part(right), part(left + right)});
  }
}
}  // namespace

TokenizerParts parse_gguf_vocabulary(std::string_view file, const std::string& source) {
  const GgufMetadata gguf(file, source);
  const auto model = gguf.string("tokenizer.ggml.model");
  if (!model) fail("{}: no vocabulary: tokenizer.ggml.model is missing", source);
  if (*model != "gpt2")
    fail("{}: tokenizer.ggml.model is '{}', which is not supported: only gpt2 (byte-level BPE)", source,
         replace_invalid_utf8(model->substr(0, 80)));
  const auto pre = gguf.string("tokenizer.ggml.pre");
  if (!pre) fail("{}: tokenizer.ggml.pre is missing: it is unknown how this model splits texts", source);
  const auto tokens = gguf.strings("tokenizer.ggml.tokens");
  if (!tokens) fail("{}: tokenizer.ggml.tokens is missing", source);
  TokenizerParts parts;
  PreTokenizerKind kind = pre_tokenizer_kind(*pre, source);
  parts.splits = std::move(kind.splits);
  parts.ignore_merges = kind.ignore_merges;
  read_tokens(gguf, *tokens, parts);
  read_merges(gguf, *tokens, parts);
  const auto name = [&](const char* key, std::string& content) {
    const auto id = gguf.integer(key);
    if (!id) return;
    if (*id < 0 || static_cast<size_t>(*id) >= parts.token_bytes.size())
      fail("{}: {} is {}, outside the vocabulary of {}", source, key, *id, parts.token_bytes.size());
    content = parts.token_bytes[static_cast<size_t>(*id)];
  };
  name("tokenizer.ggml.bos_token_id", parts.begin_of_sentence);
  name("tokenizer.ggml.eos_token_id", parts.end_of_sentence);
  name("tokenizer.ggml.padding_token_id", parts.padding);
  parts.add_begin_of_sentence =
      gguf.boolean("tokenizer.ggml.add_bos_token").value_or(false) && !parts.begin_of_sentence.empty();
  return parts;
}

TokenizerParts read_gguf_vocabulary(const fs::path& file) {
  const MappedFile mapped(file);
  return parse_gguf_vocabulary(mapped.text(), file.string());
}

std::optional<std::string> read_gguf_chat_template(const fs::path& file) {
  const MappedFile mapped(file);
  const GgufMetadata gguf(mapped.text(), file.string());
  const auto text = gguf.string("tokenizer.chat_template");
  return text ? std::optional<std::string>(*text) : std::nullopt;
}

}  // namespace moray
