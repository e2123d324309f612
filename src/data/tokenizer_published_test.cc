// Published tokenizers' ids: excerpts of their vocabularies in tests/golden/tokenizer (see make_excerpts.py
// there), and the whole ones where the variable MORAY_TOKENIZER_DATA names the folder that holds them.
#include <simdjson.h>

#include <algorithm>
#include <cstdlib>
#include <map>

#include "base/utf8.h"
#include "data/byte_stream.h"
#include "data/data_testing.h"
#include "data/gguf_vocabulary.h"
#include "data/tiktoken.h"
#include "data/tokenizer.h"

namespace moray {
namespace {

fs::path golden(const std::string& name) {
  return fs::path(MORAY_SOURCE_DIR) / "tests" / "golden" / "tokenizer" / name;
}

std::string unpacked(const fs::path& path) {
  const auto stream = ByteStream::open(path);
  std::string content(1 << 20, '\0');
  size_t size = 0;
  while (const size_t got = stream->read({content.data() + size, content.size() - size})) {
    size += got;
    if (size == content.size()) content.resize(2 * size);
  }
  content.resize(size);
  return content;
}

// The excerpts, by the names of published_vectors.jsonl; read from files with the names' endings.
std::map<std::string, Tokenizer> excerpts() {
  const TemporaryFolder folder;
  std::map<std::string, Tokenizer> tokenizers;
  for (const char* name : {"deepseek_v3.tiktoken", "kimi.tiktoken", "deepseek_llm.gguf", "gpt2.gguf"})
    tokenizers.emplace(name,
                       Tokenizer::read(folder.write(name, unpacked(golden(std::string(name) + ".gz")))));
  return tokenizers;
}

// Holds tokenizers, by name, to published_vectors.jsonl; returns how many vectors there were.
int64_t expect_published_ids(const std::map<std::string, Tokenizer>& tokenizers) {
  simdjson::dom::parser parser;
  int64_t vectors = 0;
  for (const auto vector : parser.load_many(golden("published_vectors.jsonl").string())) {
    const std::string name(vector["tokenizer"].get_string().value());
    const std::string text(vector["text"].get_string().value());
    std::vector<int32_t> expected;
    for (const auto id : vector["ids"].get_array())
      expected.push_back(static_cast<int32_t>(id.get_int64().value()));
    if (!tokenizers.contains(name)) continue;
    const Tokenizer& tokenizer = tokenizers.at(name);
    EXPECT_EQ(tokenizer.encode(text), expected) << name << ": " << text;
    EXPECT_EQ(tokenizer.decode(expected), text) << name;
    ++vectors;
  }
  return vectors;
}

TEST(PublishedTokenizers, ExcerptsGiveTheSameIds) {
  EXPECT_EQ(expect_published_ids(excerpts()), 422);
}

TEST(NeedsTokenizerData, WholeOnesGiveTheSameIds) {
  const char* data = std::getenv("MORAY_TOKENIZER_DATA");
  if (data == nullptr) GTEST_SKIP() << "MORAY_TOKENIZER_DATA names no folder";
  const fs::path folder = data;
  const std::map<std::string, Tokenizer> tokenizers = {
      {"deepseek_v3.tiktoken", Tokenizer::read(folder / "deepseek_v3.tiktoken")},
      {"deepseek_llm.gguf", Tokenizer::read(folder / "ggml-vocab-deepseek-llm.gguf")},
      {"gpt2.gguf", Tokenizer::read(folder / "ggml-vocab-gpt-2.gguf")}};
  EXPECT_GT(expect_published_ids(tokenizers), 200);
  simdjson::dom::parser parser;
  for (const auto vector : parser.load_many((folder / "deepseek_v3_vectors.jsonl").string())) {
    std::vector<int32_t> expected;
    for (const auto id : vector["ids"].get_array())
      expected.push_back(static_cast<int32_t>(id.get_int64().value()));
    std::vector<int32_t> ids =
        tokenizers.at("deepseek_v3.tiktoken").encode(std::string(vector["text"].get_string().value()));
    tokenizers.at("deepseek_v3.tiktoken").begin_prompt(ids);
    EXPECT_EQ(ids, expected);
  }
  // A vocabulary of raw characters: no token for a space, none for bytes beyond ASCII.
  const Tokenizer torchtitan = Tokenizer::read(folder / "torchtitan_test_tokenizer.json");
  EXPECT_EQ(torchtitan.encode("Hello,world"),
            (std::vector<int32_t>{72, 101, 108, 108, 111, 44, 119, 111, 114, 108, 100}));
  expect_error([&] { torchtitan.encode("a b"); }, "no token for the byte 0x20");
}

TEST(PublishedTokenizers, AnyBytesRoundTrip) {
  Random random(11, 0);
  for (const auto& [name, tokenizer] : excerpts()) {
    Encoder encoder(tokenizer);
    // DeepSeek-LLM (and so V2) has no tokens for the 13 bytes that occur in no UTF-8: their characters in the
    // byte-level alphabet are words of the text ("ü").
    const bool every_byte = name != "deepseek_llm.gguf";
    if (!every_byte) expect_error([&] { encoder.tokenizer().encode("\xff"); }, "no token for the byte 0xff");
    for (size_t length = 0; length < 200; ++length) {
      std::string text = random_bytes(random, length);
      if (!every_byte) text = replace_invalid_utf8(text);
      for (size_t i = 0; i < length / 4; ++i)
        append_utf8(text, static_cast<char32_t>(random.below(2) ? random.below(0xd800)
                                                                : 0xe000 + random.below(0x102000)));
      for (const SpecialTokens special : {SpecialTokens::ignore, SpecialTokens::parse}) {
        std::vector<int32_t> ids;
        encoder.encode(text, special, ids);
        ASSERT_EQ(tokenizer.decode(ids), text) << name;
      }
    }
  }
}

TEST(PublishedTokenizers, WrittenAsJsonTheyEncodeTheSame) {
  std::map<std::string, Tokenizer> again;
  for (const auto& [name, tokenizer] : excerpts())
    again.emplace(name, Tokenizer::from_json(tokenizer.json(), name));
  EXPECT_EQ(expect_published_ids(again), 422);
}

TEST(PublishedTokenizers, ControlTokensByString) {
  const auto tokenizers = excerpts();
  const Tokenizer& v3 = tokenizers.at("deepseek_v3.tiktoken");
  EXPECT_EQ(v3.begin_of_sentence(), 0);
  EXPECT_EQ(v3.end_of_sentence(), 1);
  std::vector<int32_t> ids = v3.encode("<｜begin▁of▁sentence｜>a", SpecialTokens::parse);
  EXPECT_EQ(ids[0], 0);
  const std::vector<int32_t> once = ids;
  v3.begin_prompt(ids);
  EXPECT_EQ(ids, once);  // not twice
  ids = v3.encode("<｜begin▁of▁sentence｜>a");
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 0), 0);  // text is text
  const Tokenizer& llm = tokenizers.at("deepseek_llm.gguf");
  EXPECT_EQ(llm.begin_of_sentence(), 100000);
  ids.clear();
  llm.begin_prompt(ids);
  EXPECT_EQ(ids, std::vector<int32_t>{100000});
  EXPECT_EQ(llm.encode("ø"), std::vector<int32_t>{llm.required_id("ø")});  // an added word
  const Tokenizer& gpt2 = tokenizers.at("gpt2.gguf");
  ids.clear();
  gpt2.begin_prompt(ids);
  EXPECT_TRUE(ids.empty());
  expect_error([&] { gpt2.token_bytes(50257); }, "outside the vocabulary");
}

TEST(Tiktoken, KimiFolder) {
  const TemporaryFolder folder;
  folder.write("tiktoken.model", unpacked(golden("kimi.tiktoken.gz")) + "/////w== 127999\n");
  folder.write("tokenizer_config.json", R"({
    "added_tokens_decoder": {
      "128000": {"content": "[BOS]", "special": true},
      "128001": {"content": "[EOS]", "special": true},
      "128002": {"content": "<|im_end|>", "special": true, "lstrip": false, "rstrip": false}},
    "bos_token": "[BOS]", "eos_token": {"content": "[EOS]"}, "unk_token": "[UNK]"})");
  const Tokenizer tokenizer = Tokenizer::read(folder.path());
  EXPECT_EQ(tokenizer.begin_of_sentence(), 128000);
  EXPECT_EQ(tokenizer.end_of_sentence(), 128001);
  EXPECT_EQ(tokenizer.required_id("<|im_end|>"), 128002);
  EXPECT_EQ(tokenizer.required_id("<|reserved_token_128003|>"), 128003);
  EXPECT_EQ(tokenizer.vocabulary_size(), 128000 + 256);
  EXPECT_EQ(tokenizer.encode("<|im_end|>", SpecialTokens::parse), std::vector<int32_t>{128002});
  EXPECT_GT(tokenizer.encode("<|im_end|>").size(), 1u);
  std::vector<int32_t> ids;
  tokenizer.begin_prompt(ids);  // Kimi's prompts begin with no [BOS]
  EXPECT_TRUE(ids.empty());
}

TEST(Tiktoken, MergesByTheResultsRank) {
  // "ab" (256), "bc" (257), "abc" (258); in "abcbc" "ab" joins first, then "bc" at the end, then "abc".
  std::string file;
  const auto line = [&](std::string_view base64, int rank) { file += fmt::format("{} {}\n", base64, rank); };
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (unsigned byte = 0; byte < 256; ++byte)
    line(std::string{kDigits[byte >> 2], kDigits[(byte & 3) << 4], '=', '='}, static_cast<int>(byte));
  const std::string bytes_only = file;
  line("YWI=", 256);
  line("YmM=", 257);
  line("YWJj", 258);
  const Tokenizer tokenizer = Tokenizer::from_parts(parse_tiktoken(file, "t"), "t");
  std::vector<int32_t> ids;
  Encoder(tokenizer).encode_piece("abcbc", ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{258, 257}));
  const auto error = [](const std::string& text) { return [text] { parse_tiktoken(text, "t"); }; };
  expect_error(error(""), "not a byte-level vocabulary");
  expect_error(error("YWI= 0\n"), "not a byte-level vocabulary");
  expect_error(error(bytes_only + "YWI 300\n"), "line 257: 'YWI' is no base64");
  expect_error(error(bytes_only + "YW=I 300\n"), "no base64");
  expect_error(error(bytes_only + "YWI=\n"), "not 'BASE64 RANK'");
  expect_error(error(bytes_only + "YWI= 0\n"), "the rank 0 occurs twice");
  expect_error(error(bytes_only + "YWI= -1\n"), "no rank");
  expect_error(error(bytes_only + "YWI= 99999999999\n"), "no rank");
  expect_error(error(bytes_only + std::string(4000, 'A') + " 300\n"), "3000 bytes");
}

std::string base64(std::string_view bytes) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t bits = 0;
    for (size_t j = 0; j < 3; ++j)
      bits = bits << 8 | (i + j < bytes.size() ? static_cast<uint8_t>(bytes[i + j]) : uint32_t{0});
    const size_t digits = std::min(bytes.size() - i, size_t{3}) + 1;
    for (size_t j = 0; j < 4; ++j) text += j < digits ? kDigits[bits >> (18 - 6 * j) & 63] : '=';
  }
  return text;
}

// Runs of two letters, each of which is made of two others in hundreds of ways.
TEST(Tiktoken, MergesWithoutEndAreRefused) {
  std::string file;
  int rank = 0;
  for (int byte = 0; byte < 256; ++byte)
    file += fmt::format("{} {}\n", base64(std::string(1, static_cast<char>(byte))), rank++);
  for (size_t a = 0; a <= 240; ++a)
    for (size_t b = 0; a + b <= 240; ++b)
      if (a + b > 1)
        file += fmt::format("{} {}\n", base64(std::string(a, 'a') + std::string(b, 'b')), rank++);
  expect_error([&] { parse_tiktoken(file, "t"); }, "t: tokens are made of others in more than 4194304 ways");
}

TEST(Tiktoken, Base64) {
  EXPECT_EQ(decode_base64("YWJj"), "abc");
  EXPECT_EQ(decode_base64("AP8="), std::string("\0\xff", 2));
  EXPECT_EQ(decode_base64(""), "");
  for (const char* bad : {"A", "AA", "A===", "====", "AA=A", "AA==AAAA", "A*==", "YWJ\n"})
    EXPECT_FALSE(decode_base64(bad)) << bad;
}

// A small GGUF vocabulary, and what a hostile one changes.
struct GgufText {
  std::string bytes = std::string("GGUF\x03\0\0\0", 8);
  template <class Number>
  GgufText& number(Number value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  GgufText& string(std::string_view text) {
    number(uint64_t{text.size()});
    bytes += text;
    return *this;
  }
  GgufText& pair(std::string_view key, std::string_view value) {
    return string(key).number(uint32_t{8}).string(value);
  }
};

TEST(GgufVocabulary, RefusesByName) {
  const auto with = [](std::string_view model, std::string_view pre) {
    GgufText file;
    file.number(uint64_t{0}).number(uint64_t{2});
    file.pair("tokenizer.ggml.model", model).pair("tokenizer.ggml.pre", pre);
    return [bytes = file.bytes] { parse_gguf_vocabulary(bytes, "f.gguf"); };
  };
  expect_error(with("llama", "default"), "tokenizer.ggml.model is 'llama'");
  expect_error(with("gpt2", "qwen2"), "tokenizer.ggml.tokens is missing");
  expect_error([] { parse_gguf_vocabulary("GGML", "f.gguf"); }, "f.gguf: not a GGUF file");
  expect_error([] { parse_gguf_vocabulary(std::string("GGUF\0\0\0\3", 8), "f"); }, "version 50331648");
  expect_error([] { parse_gguf_vocabulary("GGUF", "f"); }, "ends within");
  GgufText unknown;
  unknown.number(uint64_t{0}).number(uint64_t{3});
  unknown.pair("tokenizer.ggml.model", "gpt2").pair("tokenizer.ggml.pre", "qwen2");
  unknown.string("tokenizer.ggml.tokens").number(uint32_t{9}).number(uint32_t{8}).number(uint64_t{0});
  expect_error([&] { parse_gguf_vocabulary(unknown.bytes, "f"); }, "tokenizer.ggml.pre is 'qwen2'");
  GgufText huge;
  huge.number(uint64_t{0}).number(uint64_t{1}).string("k").number(uint32_t{9}).number(uint32_t{4});
  huge.number(uint64_t{1} << 62);
  expect_error([&] { parse_gguf_vocabulary(huge.bytes, "f"); }, "more than the file holds");
  GgufText strings;
  strings.number(uint64_t{0}).number(uint64_t{1}).string("k").number(uint32_t{9}).number(uint32_t{8});
  strings.number(~uint64_t{0});
  expect_error([&] { parse_gguf_vocabulary(strings.bytes, "f"); }, "more than the file holds");
}

// What a file with holes can hold in plenty: nothing of it is copied before it is counted.
TEST(GgufVocabulary, CountsAndLengthsHaveLimits) {
  const auto file = [](uint64_t keys) {
    GgufText text;
    text.number(uint64_t{0}).number(keys);
    return text;
  };
  const auto refused = [](const GgufText& text, const std::string& why) {
    expect_error([&] { parse_gguf_vocabulary(text.bytes, "f"); }, why);
  };
  refused(file(70'000), "f: 70000 keys, expected at most 65536");
  refused(file(1).string(std::string(65'536, 'k')), "f: a key of 65536 bytes, expected at most 65535");
  GgufText many = file(1).string("k").number(uint32_t{9}).number(uint32_t{0}).number(uint64_t{5'000'000});
  many.bytes.resize(many.bytes.size() + 5'000'000);
  refused(many, "f: 'k' has 5000000 values, expected at most 4194304");
  GgufText tokens = file(3).pair("tokenizer.ggml.model", "gpt2").pair("tokenizer.ggml.pre", "gpt-2");
  tokens.string("tokenizer.ggml.tokens").number(uint32_t{9}).number(uint32_t{8}).number(uint64_t{2});
  tokens.string(std::string(100'000'000, '\0')).string("b");
  refused(tokens, "f: 'tokenizer.ggml.tokens' has 100000017 bytes, expected at most 100000000");
}

// Some bytes changed, cut out, doubled, or the end cut off.
std::string damaged(std::string text, Random& random) {
  for (uint64_t change = 1 + random.below(4); change > 0 && !text.empty(); --change) {
    // Half of the time near the begin, where the structure is.
    const size_t at = random.below(random.below(2) ? text.size() : std::min<size_t>(text.size(), 1500));
    const size_t size = std::min<size_t>(1 + random.below(9), text.size() - at);
    switch (random.below(5)) {
      case 0:
        text.erase(at, size);
        break;
      case 1:
        text.insert(at, text.substr(at, size));
        break;
      case 2:
        text.resize(at);
        break;
      default:
        text[at] = static_cast<char>(random.below(2) ? random.below(256) : text[at] ^ (1 << random.below(8)));
    }
  }
  return text;
}

// Damaged files of every kind are read or are errors; what is read encodes and decodes.
void read_damaged_files(int repeats) {
  const TemporaryFolder folder;
  const std::string gguf = unpacked(golden("gpt2.gguf.gz")), ranks = unpacked(golden("kimi.tiktoken.gz"));
  const std::string json = sample_tokenizer(300).json();
  const std::string config =
      R"({"added_tokens_decoder": {"128000": {"content": "[BOS]", "special": true, "lstrip": true}},)"
      R"("bos_token": {"content": "[BOS]"}, "add_bos_token": true})";
  const std::pair<const char*, const std::string*> kinds[] = {{"a.gguf", &gguf},
                                                              {"tiktoken.model", &ranks},
                                                              {"tokenizer.json", &json},
                                                              {"tokenizer_config.json", &config}};
  Random random(5, 0);
  int readable = 0;
  for (int repeat = 0; repeat < repeats; ++repeat)
    for (const auto& [name, good] : kinds) {
      std::string file = name;
      folder.write(file, damaged(*good, random));
      if (file == "tokenizer_config.json") folder.write(file = "tiktoken.model", ranks);
      try {
        const Tokenizer tokenizer = Tokenizer::read(folder / file);
        ++readable;
        std::vector<int32_t> ids = tokenizer.encode("def a(b):\n  [BOS] größer", SpecialTokens::parse);
        tokenizer.begin_prompt(ids);
        tokenizer.decode(ids);
      } catch (const Error& error) {
        EXPECT_EQ(std::string_view(error.what()).find('\n'), std::string_view::npos) << error.what();
      }
      fs::remove(folder / "tokenizer_config.json");
    }
  EXPECT_GT(readable, repeats / 20);  // the damage reaches what lies behind the first check
}

TEST(TokenizerFiles, DamagedOnesAreErrors) {
  read_damaged_files(40);
}

TEST(LongTokenizerFiles, DamagedOnesAreErrors) {
  read_damaged_files(1500);
}

}  // namespace
}  // namespace moray
