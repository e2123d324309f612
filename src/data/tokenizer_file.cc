#include "data/tokenizer_file.h"

#include <charconv>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/utf8.h"
#include "data/gguf_vocabulary.h"
#include "data/tiktoken.h"
#include "data/tokenizer_json.h"

namespace moray {

namespace {
// The content of a token that is written as a string or as an added token's object; empty when absent.
std::string token_content(const nlohmann::json& config, const char* key, const std::string& source) {
  const nlohmann::json* token = json_find(config, key, source);
  if (token == nullptr) return {};
  if (token->is_object()) return json_string(*token, "content", source);
  return json_string(config, key, source);
}

AddedToken read_added_token(const std::string& key, const nlohmann::json& entry, const std::string& source) {
  AddedToken token;
  const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), token.id);
  if (error != std::errc() || end != key.data() + key.size() || token.id < 0 || token.id >= kMaxVocabulary)
    fail("{}: added_tokens_decoder: '{}' is no token id", source, key);
  token.content = json_string(entry, "content", source);
  if (token.content.empty()) fail("{}: added_tokens_decoder: token {} is empty", source, key);
  token.special = json_boolean(entry, "special", source, false);
  token.lstrip = json_boolean(entry, "lstrip", source, false);
  token.rstrip = json_boolean(entry, "rstrip", source, false);
  token.normalized = json_boolean(entry, "normalized", source, !token.special);
  if (json_boolean(entry, "single_word", source, false))
    fail("{}: added token '{}': single_word is not supported", source, token.content);
  return token;
}

// tokenizer.json first: it says most; of several rank or GGUF files none is the right one.
fs::path find_vocabulary(const fs::path& folder) {
  std::vector<fs::path> found;
  for (const char* name : {"tokenizer.json", "tiktoken.model"})
    if (fs::exists(folder / name)) return folder / name;
  for (const char* extension : {".tiktoken", ".gguf"}) {
    for (const fs::directory_entry& entry : fs::directory_iterator(folder))
      if (entry.path().extension() == extension) found.push_back(entry.path());
    if (found.size() > 1)
      fail("{}: {} files end in {}: name the one to read", folder.string(), found.size(), extension);
    if (!found.empty()) return found[0];
  }
  if (fs::exists(folder / "tokenizer.model"))
    fail("{}: tokenizer.model is a SentencePiece vocabulary, which is not supported; expected tokenizer.json",
         folder.string());
  fail("{}: no tokenizer: expected tokenizer.json, tiktoken.model, a .tiktoken or a .gguf file",
       folder.string());
}
}  // namespace

void apply_tokenizer_config(std::string_view json, const std::string& source, TokenizerParts& parts) {
  const nlohmann::json config = parse_json(json, source);
  if (!config.is_object()) fail("{}: not a JSON object", source);
  if (const nlohmann::json* added = json_find(config, "added_tokens_decoder", source)) {
    if (!added->is_object()) fail("{}: added_tokens_decoder is not an object", source);
    std::unordered_map<int32_t, std::string> known;
    for (const AddedToken& token : parts.added_tokens) known.emplace(token.id, token.content);
    for (const auto& [key, entry] : added->items()) {
      const AddedToken token = read_added_token(key, entry, source);
      const auto id = static_cast<size_t>(token.id);
      if (id >= parts.token_bytes.size()) parts.token_bytes.resize(id + 1);
      const auto found = known.find(token.id);
      if (const std::string& there = found == known.end() ? parts.token_bytes[id] : found->second;
          !there.empty() && there != token.content)
        fail("{}: token {} is '{}', but '{}' in the vocabulary's file", source, token.id, token.content,
             replace_invalid_utf8(there));
      if (found != known.end()) continue;
      parts.token_bytes[id] = token.content;
      parts.added_tokens.push_back(token);
    }
  }
  const auto take = [&](const char* key, std::string& into) {
    if (std::string content = token_content(config, key, source); !content.empty()) into = std::move(content);
  };
  take("bos_token", parts.begin_of_sentence);
  take("eos_token", parts.end_of_sentence);
  take("pad_token", parts.padding);
  parts.add_begin_of_sentence = json_boolean(config, "add_bos_token", source, parts.add_begin_of_sentence) &&
                                !parts.begin_of_sentence.empty();
}

Tokenizer read_tokenizer(const fs::path& path) {
  std::error_code error;
  const fs::path file = fs::is_directory(path, error) ? find_vocabulary(path) : path;
  const std::string source = file.string();
  if (file.extension() == ".gguf") return Tokenizer::from_parts(read_gguf_vocabulary(file), source);
  const fs::path config = file.parent_path() / "tokenizer_config.json";
  const bool has_config = fs::exists(config, error);
  if (file.extension() == ".tiktoken" || file.extension() == ".model") {
    TokenizerParts parts = parse_tiktoken(read_file(file), source);
    if (has_config) apply_tokenizer_config(read_file(config), config.string(), parts);
    add_reserved_tokens(parts);
    return Tokenizer::from_parts(std::move(parts), source);
  }
  std::string json = read_file(file);
  TokenizerParts parts = parse_tokenizer_json(json, source);
  if (has_config) apply_tokenizer_config(read_file(config), config.string(), parts);
  return Tokenizer::from_parts(std::move(parts), source, std::move(json));
}

}  // namespace moray
