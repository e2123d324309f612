// .xz streams; .gz and .zst are tested through corpora (corpus_test.cc).
#include "data/byte_stream.h"

#include <gtest/gtest.h>
#include <lzma.h>

#include "base/test_help.h"

namespace moray {
namespace {

std::string xz(const std::string& text) {
  std::string packed(lzma_stream_buffer_bound(text.size()), '\0');
  size_t size = 0;
  MORAY_CHECK(lzma_easy_buffer_encode(
                  1, LZMA_CHECK_CRC64, nullptr, reinterpret_cast<const uint8_t*>(text.data()), text.size(),
                  reinterpret_cast<uint8_t*>(packed.data()), &size, packed.size()) == LZMA_OK);
  packed.resize(size);
  return packed;
}

std::string sample_text() {
  std::string text;
  for (int i = 0; i < 30000; ++i) text += std::to_string(i * 7919 % 10007) + ' ';
  return text;
}

std::string read_all(const std::string& content) {
  const test::ScratchFolder folder;
  write_file_atomically(folder / "t.xz", content);
  const auto stream = ByteStream::open(folder / "t.xz");
  std::string text, piece(1000, '\0');
  while (const size_t size = stream->read(piece)) text.append(piece, 0, size);
  return text;
}

TEST(XzStream, ReadsWholeAndConcatenatedStreams) {
  const std::string text = sample_text();
  EXPECT_EQ(read_all(xz(text)), text);
  EXPECT_EQ(read_all(xz(text) + xz("more")), text + "more");
}

TEST(XzStream, DamageGetsOneLine) {
  const std::string whole = xz(sample_text());
  const auto error = [](const std::string& content) { return test::error_of([&] { read_all(content); }); };
  for (const size_t size : {size_t{0}, size_t{5}, whole.size() / 2, whole.size() - 1})
    EXPECT_NE(error(whole.substr(0, size)).find("cut short"), std::string::npos) << size;
  std::string flipped = whole;
  flipped[whole.size() / 2] = static_cast<char>(flipped[whole.size() / 2] ^ 0x10);
  EXPECT_NE(error(flipped).find("damaged xz stream"), std::string::npos);
  EXPECT_NE(error("plain text, no xz at all").find("damaged xz stream"), std::string::npos);
}

}  // namespace
}  // namespace moray
