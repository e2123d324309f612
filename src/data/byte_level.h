// The byte-level alphabet of GPT-2: each byte has a printable character, so that tokens of any bytes can be
// written into JSON as text. Printable Latin-1 bytes stand for themselves, the other 68 for U+0100 and up.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace moray {

// The code point that stands for a byte.
char32_t byte_level_character(uint8_t byte);

// Bytes to byte-level text and back; nothing when `text` has a character outside the alphabet.
std::string to_byte_level(std::string_view bytes);
std::optional<std::string> from_byte_level(std::string_view text);

}  // namespace moray
