#include "data/utf8.h"

#include <cstdint>
#include <cstring>

namespace moray {

namespace {
// The length of the valid character at the front of `text`, or 0.
size_t character_length(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  if (first < 0xc2 || first > 0xf4) return 0;
  const size_t length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  if (text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i)
    if (!is_utf8_continuation(text[i])) return 0;
  if (first == 0xe0 && byte(1) < 0xa0) return 0;   // overlong
  if (first == 0xed && byte(1) >= 0xa0) return 0;  // surrogates
  if (first == 0xf0 && byte(1) < 0x90) return 0;   // overlong
  if (first == 0xf4 && byte(1) >= 0x90) return 0;  // beyond U+10FFFF
  return length;
}
}  // namespace

size_t valid_utf8_prefix(std::string_view text) {
  size_t position = 0;
  while (position < text.size()) {
    uint64_t word = 0;
    while (position + 8 <= text.size()) {  // ASCII, eight bytes a step
      std::memcpy(&word, text.data() + position, 8);
      if (word & 0x8080808080808080ull) break;
      position += 8;
    }
    if (position == text.size()) break;
    const size_t length = character_length(text.substr(position));
    if (length == 0) break;
    position += length;
  }
  return position;
}

size_t next_character(std::string_view text, size_t position) {
  for (int step = 0; step < 3 && position < text.size() && is_utf8_continuation(text[position]); ++step)
    ++position;
  return position;
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string result;
  while (!text.empty()) {
    const size_t valid = valid_utf8_prefix(text);
    result += text.substr(0, valid);
    if (valid < text.size()) append_utf8(result, 0xfffd);
    text.remove_prefix(valid < text.size() ? valid + 1 : valid);
  }
  return result;
}

void append_utf8(std::string& text, char32_t code_point) {
  const auto put = [&](char32_t value) {
    text.push_back(static_cast<char>(static_cast<unsigned char>(value)));
  };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xc0 | code_point >> 6);
    put(0x80 | (code_point & 0x3f));
  } else if (code_point < 0x10000) {
    put(0xe0 | code_point >> 12);
    put(0x80 | (code_point >> 6 & 0x3f));
    put(0x80 | (code_point & 0x3f));
  } else {
    put(0xf0 | code_point >> 18);
    put(0x80 | (code_point >> 12 & 0x3f));
    put(0x80 | (code_point >> 6 & 0x3f));
    put(0x80 | (code_point & 0x3f));
  }
}

}  // namespace moray
