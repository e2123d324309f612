#include "base/utf8.h"

#include <algorithm>
#include <array>
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

namespace {
// The length of the character at the front of a valid `text` where it steers a terminal, or 0.
size_t steering_length(std::string_view text) {
  const auto first = static_cast<unsigned char>(text[0]);
  if (first < 0x20 || first == 0x7f) return 1;
  if (first == 0xc2 && static_cast<unsigned char>(text[1]) < 0xa0) return 2;
  if (first != 0xe2) return 0;
  const std::string_view character = text.substr(0, 3);
  const auto within = [&](std::string_view begin, std::string_view end) {
    return begin <= character && character <= end;
  };
  return within("\u200e", "\u200f") || within("\u2028", "\u202e") || within("\u2066", "\u2069") ? 3 : 0;
}
}  // namespace

std::string printable(std::string_view text, std::string_view kept) {
  const std::string valid = replace_invalid_utf8(text);
  std::string result;
  for (std::string_view rest = valid; !rest.empty();) {
    const size_t steering = kept.find(rest[0]) == std::string_view::npos ? steering_length(rest) : 0;
    const size_t length = std::max(steering, character_length(rest));
    result += steering > 0 ? std::string_view(" ") : rest.substr(0, length);
    rest.remove_prefix(length);
  }
  return result;
}

namespace {
// The length of the white space character at the front of `text`, or 0.
size_t white_space_length(std::string_view text) {
  constexpr std::string_view kLong[] = {"\u0085", "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003",
                                        "\u2004", "\u2005", "\u2006", "\u2007", "\u2008", "\u2009", "\u200a",
                                        "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"};
  if (text.empty()) return 0;
  if (text[0] == ' ' || (text[0] >= '\t' && text[0] <= '\r')) return 1;
  for (const std::string_view character : kLong)
    if (text.starts_with(character)) return character.size();
  return 0;
}

// Whether `text`, at most 3 bytes, may become a valid character when more bytes follow.
bool begins_character(std::string_view text) {
  const auto first = static_cast<unsigned char>(text[0]);
  if (first < 0xc2 || first > 0xf4) return false;
  const size_t length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  if (text.size() >= length) return false;
  for (const char second : {'\x80', '\x90', '\xa0'}) {  // one of them is allowed after any first byte
    std::array<char, 4> completed{text[0], second, '\x80', '\x80'};
    std::copy(text.begin(), text.end(), completed.begin());
    if (character_length({completed.data(), length}) == length) return true;
  }
  return false;
}
}  // namespace

size_t leading_white_space(std::string_view text) {
  size_t size = 0;
  while (const size_t next = white_space_length(text.substr(size))) size += next;
  return size;
}

size_t trailing_white_space(std::string_view text) {
  size_t begin = text.size();
  for (bool found = true; found;) {
    found = false;
    for (size_t length = 1; length <= 3 && length <= begin && !found; ++length)
      if (white_space_length(text.substr(begin - length, length)) == length) {
        begin -= length;
        found = true;
      }
  }
  return text.size() - begin;
}

std::string Utf8Stream::push(std::string_view bytes) {
  waiting_ += bytes;
  const std::string_view all = waiting_;
  size_t ready = all.size();
  for (size_t tail = std::min<size_t>(3, all.size()); tail > 0 && ready == all.size(); --tail)
    if (begins_character(all.substr(all.size() - tail))) ready -= tail;
  std::string text(all.substr(0, ready));
  waiting_.erase(0, ready);
  return text;
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
