#include "data/gguf_metadata.h"

#include <cstring>

#include "base/error.h"
#include "base/files.h"
#include "base/utf8.h"
#include "data/tokenizer.h"

namespace moray {

namespace {
constexpr uint64_t kMostKeyBytes = 65535;  // the format's own limit
constexpr uint64_t kMostKeys = 65536;      // published files have tens
}  // namespace

GgufMetadata::GgufMetadata(std::string_view file, std::string source) : source_(std::move(source)) {
  std::string_view rest = file;
  if (!file.starts_with("GGUF")) fail("{}: not a GGUF file", source_);
  take(rest, 4);
  const auto version = number<uint32_t>(rest);
  if (version != 2 && version != 3)
    fail("{}: GGUF version {} is not supported, only little-endian 2 and 3", source_, version);
  number<uint64_t>(rest);  // tensors
  const auto count = number<uint64_t>(rest);
  if (count > kMostKeys) fail("{}: {} keys, expected at most {}", source_, count, kMostKeys);
  for (uint64_t i = 0; i < count; ++i) {
    const std::string_view key = take_key(rest);
    Value value;
    value.type = take_type(rest);
    if (value.type == Type::array) {
      value.element = take_type(rest);
      value.count = number<uint64_t>(rest);
      if (value.element == Type::array) fail("{}: an array of arrays", source_);
    }
    const std::string_view begin = rest;
    expect_count(key, value, rest.size());
    const Type element = value.type == Type::array ? value.element : value.type;
    if (const size_t size = size_of(element)) {
      take(rest, value.count * size);
    } else {
      for (uint64_t j = 0; j < value.count; ++j) take_string(rest);
    }
    value.bytes = begin.substr(0, begin.size() - rest.size());
    if (!values_.emplace(key, value).second)
      fail("{}: the key '{}' occurs twice", source_, replace_invalid_utf8(key));
  }
}

std::string_view GgufMetadata::take(std::string_view& rest, uint64_t size) const {
  if (size > rest.size()) fail("{}: the file ends within its metadata", source_);
  const std::string_view taken = rest.substr(0, size);
  rest.remove_prefix(size);
  return taken;
}

std::string_view GgufMetadata::take_key(std::string_view& rest) const {
  const auto size = number<uint64_t>(rest);
  if (size > kMostKeyBytes) fail("{}: a key of {} bytes, expected at most {}", source_, size, kMostKeyBytes);
  return take(rest, size);
}

void GgufMetadata::expect_count(std::string_view key, const Value& value, size_t rest_bytes) const {
  const Type element = value.type == Type::array ? value.element : value.type;
  const size_t size =
      element == Type::string ? sizeof(uint64_t) : size_of(element);  // a string's length at least
  if (value.count > rest_bytes / size)
    fail("{}: '{}' claims {} values, more than the file holds", source_, replace_invalid_utf8(key),
         value.count);
  if (value.count > kMaxMerges)
    fail("{}: '{}' has {} values, expected at most {}", source_, replace_invalid_utf8(key), value.count,
         kMaxMerges);
}

// Before a value is copied.
void GgufMetadata::expect_read_whole(std::string_view key, const Value& value) const {
  if (value.bytes.size() > kMostMetadataBytes)
    fail("{}: '{}' has {} bytes, expected at most {}", source_, key, value.bytes.size(), kMostMetadataBytes);
}

template <class Number>
Number GgufMetadata::number(std::string_view& rest) const {
  Number value;
  std::memcpy(&value, take(rest, sizeof value).data(), sizeof value);
  return value;
}

std::string_view GgufMetadata::take_string(std::string_view& rest) const {
  const auto size = number<uint64_t>(rest);
  return take(rest, size);
}

GgufMetadata::Type GgufMetadata::take_type(std::string_view& rest) const {
  const auto type = number<uint32_t>(rest);
  if (type > static_cast<uint32_t>(Type::f64)) fail("{}: unknown value type {}", source_, type);
  return static_cast<Type>(type);
}

size_t GgufMetadata::size_of(Type type) {
  switch (type) {
    case Type::u8:
    case Type::i8:
    case Type::boolean:
      return 1;
    case Type::u16:
    case Type::i16:
      return 2;
    case Type::u32:
    case Type::i32:
    case Type::f32:
      return 4;
    case Type::u64:
    case Type::i64:
    case Type::f64:
      return 8;
    case Type::string:
    case Type::array:
      return 0;
  }
  return 0;
}

const GgufMetadata::Value* GgufMetadata::find(std::string_view key) const {
  const auto found = values_.find(key);
  return found == values_.end() ? nullptr : &found->second;
}

int64_t GgufMetadata::take_integer(std::string_view& rest, Type type, std::string_view key) const {
  switch (type) {
    case Type::u8:
      return number<uint8_t>(rest);
    case Type::i8:
      return number<int8_t>(rest);
    case Type::u16:
      return number<uint16_t>(rest);
    case Type::i16:
      return number<int16_t>(rest);
    case Type::u32:
      return number<uint32_t>(rest);
    case Type::i32:
      return number<int32_t>(rest);
    case Type::i64:
      return number<int64_t>(rest);
    case Type::u64:
      if (const auto value = number<uint64_t>(rest); value <= INT64_MAX) return static_cast<int64_t>(value);
      fail("{}: '{}' is too large", source_, key);
    default:
      fail("{}: '{}' holds no integer", source_, key);
  }
}

std::optional<std::string_view> GgufMetadata::string(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->type != Type::string) fail("{}: '{}' is no string", source_, key);
  expect_read_whole(key, *value);
  std::string_view rest = value->bytes;
  return take_string(rest);
}

std::optional<bool> GgufMetadata::boolean(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->type != Type::boolean) fail("{}: '{}' is neither true nor false", source_, key);
  return value->bytes[0] != 0;
}

std::optional<int64_t> GgufMetadata::integer(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return std::nullopt;
  std::string_view rest = value->bytes;
  return take_integer(rest, value->type, key);
}

std::optional<std::vector<std::string_view>> GgufMetadata::strings(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->type != Type::array || value->element != Type::string)
    fail("{}: '{}' is no array of strings", source_, key);
  expect_read_whole(key, *value);
  std::vector<std::string_view> strings;
  strings.reserve(value->count);
  for (std::string_view rest = value->bytes; !rest.empty();) strings.push_back(take_string(rest));
  return strings;
}

std::optional<std::vector<int64_t>> GgufMetadata::integers(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->type != Type::array) fail("{}: '{}' is no array", source_, key);
  std::vector<int64_t> numbers;
  numbers.reserve(value->count);
  for (std::string_view rest = value->bytes; !rest.empty();)
    numbers.push_back(take_integer(rest, value->element, key));
  return numbers;
}

}  // namespace moray
