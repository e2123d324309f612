#include "base/utf8.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/random.h"

namespace moray {
namespace {

TEST(Utf8, FindsTheFirstInvalidByte) {
  EXPECT_EQ(valid_utf8_prefix("plain ascii, long enough for words"), 34u);
  for (const char* text : {"é", "数", "🐍", "\xed\x9f\xbf", "\xf4\x8f\xbf\xbf"})
    EXPECT_EQ(valid_utf8_prefix(text), std::string_view(text).size()) << text;
  for (const char* text : {"\x80", "\xc0\xaf", "\xe0\x80\xaf", "\xed\xa0\x80", "\xf0\x80\x80\xaf",
                           "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xc3", "\xe6\x95", "\xff"})
    EXPECT_EQ(valid_utf8_prefix(std::string("12345678") + text), 8u);
  EXPECT_EQ(replace_invalid_utf8("a\xff"
                                 "b"),
            "a\uFFFD"
            "b");
}

TEST(Utf8Stream, HoldsIncompleteCharacters) {
  const std::string text = "aé数🐍\xff\xe6\x95z\xf0\x9f\xc3(\xed\xa0\x80\xf4\x90\xe0\x80";
  Random random(9, 0);
  for (int repeat = 0; repeat < 200; ++repeat) {
    Utf8Stream stream;
    std::string passed, replaced;
    for (size_t at = 0; at < text.size();) {
      const size_t size = std::min<size_t>(1 + random.below(4), text.size() - at);
      const std::string piece = stream.push(text.substr(at, size));
      passed += piece;
      replaced += replace_invalid_utf8(piece);
      at += size;
    }
    const std::string rest = stream.finish();
    EXPECT_EQ(passed + rest, text);
    EXPECT_EQ(replaced + replace_invalid_utf8(rest), replace_invalid_utf8(text));
  }
  Utf8Stream stream;
  EXPECT_EQ(stream.push("\xf0\x9f"), "");
  EXPECT_EQ(stream.push("\x90"), "");
  EXPECT_EQ(stream.push("\x8d!"), "🐍!");
}

TEST(Utf8, NothingSteersATerminal) {
  const std::string plain = "model.layers.1 é 数字 🐍 “—” \u00a0\u0300";
  EXPECT_EQ(printable(plain), plain);
  EXPECT_EQ(printable("a\x1b[2J\r\n\tb\x7f" + std::string(1, '\0')), "a [2J   b  ");
  EXPECT_EQ(printable("a\u009b31m\u0085\u2028\u202e\u2066\u200fz"), "a 31m     z");
  EXPECT_EQ(printable("\xff\x9b\xc2"), "\uFFFD\uFFFD\uFFFD") << "a lone C1 byte is no UTF-8";
  EXPECT_EQ(printable("one\ntwo\x1b", "\n"), "one\ntwo ");
  for (char32_t c = 0; c < 0x3000; ++c) {  // the definition, by numbers
    std::string text;
    append_utf8(text, c);
    const bool steers = c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x200e || c == 0x200f ||
                        (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
    EXPECT_EQ(printable(text), steers ? " " : text) << static_cast<uint32_t>(c);
  }
}

}  // namespace
}  // namespace moray
