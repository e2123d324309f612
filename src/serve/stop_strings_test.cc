#include "serve/stop_strings.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace moray {
namespace {

// What is shown of `text` in pieces of `size`.
std::string shown(const std::string& text, std::vector<std::string> stops, size_t size) {
  StopStrings matcher(std::move(stops));
  std::string out;
  for (size_t at = 0; at < text.size(); at += size)
    out += matcher.push(std::string_view(text).substr(at, size));
  return out + matcher.finish();
}

TEST(StopStrings, EndTheTextWhateverThePieces) {
  for (size_t size = 1; size < 12; ++size) {
    EXPECT_EQ(shown("one two three", {"two"}, size), "one ");
    EXPECT_EQ(shown("one two three", {"three", "two"}, size), "one ");
    EXPECT_EQ(shown("aabaabaac", {"aabaac"}, size), "aab");  // begins again inside itself
    EXPECT_EQ(shown("one two thre", {"three"}, size), "one two thre");
    EXPECT_EQ(shown("plain", {}, size), "plain");
  }
}

TEST(StopStrings, HoldBackOnlyWhatMayBeOne) {
  StopStrings matcher({"\nUser:"});
  EXPECT_EQ(matcher.push("Hello\nUs"), "Hello");
  EXPECT_EQ(matcher.push("age"), "\nUsage");
  EXPECT_FALSE(matcher.stopped());
  EXPECT_EQ(matcher.push("\nUser: x"), "");
  EXPECT_TRUE(matcher.stopped());
  EXPECT_THROW(StopStrings({""}), Error);
}

}  // namespace
}  // namespace moray
