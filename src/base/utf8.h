// UTF-8: where a text stops being valid, where characters begin, and what of it a terminal may be given.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

namespace moray {

// The length in bytes of the longest prefix that is valid UTF-8 (RFC 3629: no surrogates, no overlong forms).
size_t valid_utf8_prefix(std::string_view text);

// Whether a byte continues a character begun before it.
inline bool is_utf8_continuation(char byte) {
  return (static_cast<unsigned char>(byte) & 0xc0) == 0x80;
}

// The first position at or after `position` where a character begins, or text.size(). Looks at most 3 bytes
// ahead, so that it ends on any bytes.
size_t next_character(std::string_view text, size_t position);

// `text` with every byte that is no UTF-8 replaced by U+FFFD, for messages and JSON.
std::string replace_invalid_utf8(std::string_view text);

// `text` for a terminal or a log, whatever file it comes from: bytes that are no UTF-8 become U+FFFD, and
// what would steer a terminal becomes a space: control characters (C0, DEL, C1), separators of lines, and
// those that turn the direction of writing. The bytes of `kept` stay.
std::string printable(std::string_view text, std::string_view kept = {});

// Bytes of Unicode white space (White_Space) at the front and at the end of `text`.
size_t leading_white_space(std::string_view text);
size_t trailing_white_space(std::string_view text);

// Passes a stream of bytes on at character boundaries: the begin of a character waits for its rest. Bytes
// that are no UTF-8 pass unchanged.
class Utf8Stream {
 public:
  // What can be passed on, now that `bytes` came.
  std::string push(std::string_view bytes);
  // The bytes that waited for a rest which did not come.
  std::string finish() { return std::exchange(waiting_, {}); }

 private:
  std::string waiting_;  // at most 3 bytes
};

// Appends the UTF-8 form of a code point below 0x110000.
void append_utf8(std::string& text, char32_t code_point);

}  // namespace moray
