#include "data/byte_level.h"

#include <array>

#include "base/utf8.h"

namespace moray {

namespace {
constexpr size_t kAlphabetEnd = 0x100 + 68;

constexpr bool stands_for_itself(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

constexpr std::array<char16_t, 256> characters_of_bytes() {
  std::array<char16_t, 256> characters{};
  char16_t next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte)
    characters[byte] = stands_for_itself(byte) ? static_cast<char16_t>(byte) : next++;
  return characters;
}

constexpr std::array<char16_t, 256> kCharacters = characters_of_bytes();

constexpr std::array<int16_t, kAlphabetEnd> bytes_of_characters() {
  std::array<int16_t, kAlphabetEnd> bytes{};
  for (auto& byte : bytes) byte = -1;
  for (size_t byte = 0; byte < 256; ++byte) bytes[kCharacters[byte]] = static_cast<int16_t>(byte);
  return bytes;
}

constexpr std::array<int16_t, kAlphabetEnd> kBytes = bytes_of_characters();
}  // namespace

char32_t byte_level_character(uint8_t byte) {
  return kCharacters[byte];
}

std::string to_byte_level(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size() * 2);
  for (const char byte : bytes) append_utf8(text, kCharacters[static_cast<uint8_t>(byte)]);
  return text;
}

std::optional<std::string> from_byte_level(std::string_view text) {
  std::string bytes;
  bytes.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned code_point = static_cast<uint8_t>(text[i]);
    if (code_point >= 0x80) {  // the alphabet ends below U+0800: two bytes at most
      if ((code_point & 0xe0) != 0xc0 || i + 1 == text.size()) return std::nullopt;
      code_point = (code_point & 0x1f) << 6 | (static_cast<uint8_t>(text[++i]) & 0x3f);
    }
    if (code_point >= kAlphabetEnd || kBytes[code_point] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(kBytes[code_point]));
  }
  return bytes;
}

}  // namespace moray
