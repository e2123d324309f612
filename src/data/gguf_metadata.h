// The key-value section at the head of a GGUF file, versions 2 and 3 (little-endian); tensors are not looked
// at.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moray {

class GgufMetadata {
 public:
  // `file` must outlive this. Throws Error naming `source` for anything malformed and for more than a
  // tokenizer's metadata ever is: files with holes hold much and take no disk.
  GgufMetadata(std::string_view file, std::string source);

  // The values of a key; nothing when it is absent. Error when it has another type.
  std::optional<std::string_view> string(std::string_view key) const;
  std::optional<bool> boolean(std::string_view key) const;
  std::optional<int64_t> integer(std::string_view key) const;  // of any integer type
  std::optional<std::vector<std::string_view>> strings(std::string_view key) const;
  std::optional<std::vector<int64_t>> integers(std::string_view key) const;

  const std::string& source() const { return source_; }

 private:
  enum class Type : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };
  struct Value {
    Type type = Type::u8;
    Type element = Type::u8;  // of an array
    uint64_t count = 1;
    std::string_view bytes;  // as in the file; of an array its elements
  };

  // Takes bytes off the front of `rest`; Error when there are fewer.
  std::string_view take(std::string_view& rest, uint64_t size) const;
  template <class Number>
  Number number(std::string_view& rest) const;
  std::string_view take_string(std::string_view& rest) const;
  std::string_view take_key(std::string_view& rest) const;
  void expect_count(std::string_view key, const Value& value, size_t rest_bytes) const;
  void expect_read_whole(std::string_view key, const Value& value) const;
  Type take_type(std::string_view& rest) const;
  static size_t size_of(Type type);  // 0: string or array
  int64_t take_integer(std::string_view& rest, Type type, std::string_view key) const;
  const Value* find(std::string_view key) const;

  std::string source_;
  std::map<std::string, Value, std::less<>> values_;
};

}  // namespace moray
