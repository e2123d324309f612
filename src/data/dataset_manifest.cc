#include "data/dataset_manifest.h"

#include <charconv>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/json.h"
#include "base/utf8.h"

namespace moray {

namespace {
using nlohmann::json;

constexpr int64_t kVersion = 1;
constexpr std::string_view kChecksumKey = "  \"checksum\": \"";
constexpr std::string_view kEnd = "\"\n}\n";

// JSON numbers do not hold 64 bits for every reader: checksums and the seed are hexadecimal strings.
std::string hex(uint64_t value) {
  return fmt::format("{:016x}", value);
}

uint64_t parse_hex(std::string_view text, const std::string& where) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (text.size() != 16 || error != std::errc() || end != text.data() + text.size())
    fail("{}: expected 16 hexadecimal digits, got '{}'", where, text.substr(0, 40));
  return value;
}

uint64_t text_checksum(std::string_view text) {
  return checksum(std::as_bytes(std::span(text)));
}

std::string write_split(const SplitManifest& split) {
  std::string text = fmt::format("{{\"documents\": {}, \"tokens\": {}, \"bytes\": {}, \"shards\": [",
                                 split.documents, split.tokens, split.raw_bytes);
  const char* separator = "";
  for (const auto& shard : split.shards) {
    text += fmt::format("{}\n        {{\"file\": {}, \"tokens\": {}, \"checksum\": \"{}\"}}", separator,
                        json_quote(shard.name), shard.tokens, hex(shard.checksum));
    separator = ",";
  }
  return text + "]}";
}

uint64_t count(const json& object, std::string_view key, const std::string& where) {
  const int64_t value = json_integer(object, key, where);
  if (value < 0) fail("{}: '{}' is negative: {}", where, key, value);
  return static_cast<uint64_t>(value);
}

SplitManifest read_split(const json& object, const std::string& where) {
  SplitManifest split;
  split.documents = count(object, "documents", where);
  split.tokens = count(object, "tokens", where);
  split.raw_bytes = count(object, "bytes", where);
  for (const json& shard : json_array(object, "shards", where)) {
    SplitManifest::File file{.name = json_string(shard, "file", where),
                             .tokens = count(shard, "tokens", where),
                             .checksum = parse_hex(json_string(shard, "checksum", where), where)};
    if (file.name.find('/') != std::string::npos)
      fail("{}: shard '{}' is not in this folder", where, file.name);
    split.shards.push_back(std::move(file));
  }
  return split;
}

CorpusManifest read_corpus(const json& object, const std::string& where) {
  CorpusManifest corpus;
  corpus.name = json_string(object, "name", where);
  corpus.path = json_string(object, "path", where);
  corpus.weight = json_number(object, "weight", where);
  if (!(corpus.weight >= 0)) fail("{}: corpus '{}' has the weight {}", where, corpus.name, corpus.weight);
  corpus.documents_read = json_integer(object, "documents_read", where);
  corpus.duplicates = json_integer(object, "duplicates", where);
  corpus.skipped_binary = json_integer(object, "skipped_binary", where);
  corpus.skipped_empty = json_integer(object, "skipped_empty", where);
  corpus.fim_documents = json_integer(object, "fim_documents", where);
  corpus.train = read_split(json_object(object, "train", where), where);
  corpus.held_out = read_split(json_object(object, "held_out", where), where);
  return corpus;
}
}  // namespace

std::string write_dataset_manifest(const DatasetManifest& manifest) {
  std::string text = fmt::format(
      "{{\n  \"version\": {},\n  \"seed\": \"{}\",\n  \"held_out_fraction\": {},\n  \"fim_rate\": {},\n"
      "  \"split_rate\": {},\n  \"end_token\": {},\n  \"vocabulary_size\": {},\n  \"tokenizer_checksum\": "
      "\"{}\",\n"
      "  \"held_out_checksum\": \"{}\",\n  \"corpora\": [",
      kVersion, hex(manifest.seed), manifest.held_out_fraction, manifest.fim_rate, manifest.split_rate,
      json_quote(manifest.end_token), manifest.vocabulary_size, hex(manifest.tokenizer_checksum),
      hex(manifest.held_out_checksum));
  const char* separator = "";
  for (const CorpusManifest& corpus : manifest.corpora) {
    text += fmt::format(
        "{}\n    {{\"name\": {}, \"path\": {}, \"weight\": {},\n      \"documents_read\": {}, "
        "\"duplicates\": {}, "
        "\"skipped_binary\": {}, \"skipped_empty\": {}, \"fim_documents\": {},\n      \"train\": {},\n"
        "      \"held_out\": {}}}",
        separator, json_quote(corpus.name), json_quote(replace_invalid_utf8(corpus.path)), corpus.weight,
        corpus.documents_read, corpus.duplicates, corpus.skipped_binary, corpus.skipped_empty,
        corpus.fim_documents, write_split(corpus.train), write_split(corpus.held_out));
    separator = ",";
  }
  text += "\n  ],\n";
  return text + std::string(kChecksumKey) + hex(text_checksum(text)) + std::string(kEnd);
}

DatasetManifest read_dataset_manifest(const fs::path& path) {
  const std::string where = path.string();
  const std::string text = read_file(path);
  const size_t tail = kChecksumKey.size() + 16 + kEnd.size();
  const std::string_view body = std::string_view(text).substr(0, text.size() < tail ? 0 : text.size() - tail);
  if (text.size() < tail ||
      text != std::string(body) + std::string(kChecksumKey) + hex(text_checksum(body)) + std::string(kEnd))
    fail("{}: damaged or edited: its checksum differs; build the dataset again", where);
  const json root = parse_json(text, where);
  if (const int64_t version = json_integer(root, "version", where); version != kVersion)
    fail("{}: version {}, this build reads {}", where, version, kVersion);
  DatasetManifest manifest;
  manifest.seed = parse_hex(json_string(root, "seed", where), where);
  manifest.held_out_fraction = json_number(root, "held_out_fraction", where);
  manifest.fim_rate = json_number(root, "fim_rate", where);
  manifest.split_rate = json_number(root, "split_rate", where);
  manifest.end_token = json_string(root, "end_token", where);
  manifest.vocabulary_size = json_integer(root, "vocabulary_size", where);
  manifest.tokenizer_checksum = parse_hex(json_string(root, "tokenizer_checksum", where), where);
  manifest.held_out_checksum = parse_hex(json_string(root, "held_out_checksum", where), where);
  for (const json& corpus : json_array(root, "corpora", where))
    manifest.corpora.push_back(read_corpus(corpus, where));
  return manifest;
}

}  // namespace moray
