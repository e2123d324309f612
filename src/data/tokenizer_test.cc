#include "data/tokenizer.h"

#include <algorithm>
#include <set>
#include <thread>

#include "data/byte_level.h"
#include "data/data_testing.h"
#include "data/tokenizer_json.h"
#include "data/utf8.h"

namespace moray {
namespace {

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  if (at == std::string::npos)
    ADD_FAILURE() << "no '" << from << "'";
  else
    text.replace(at, from.size(), to);
  return text;
}

// Merges in the slowest way: scan for the lowest rank, leftmost, again and again.
std::vector<int32_t> merge_by_scanning(const TokenizerParts& parts, std::vector<int32_t> ids) {
  for (;;) {
    size_t best_rank = parts.merges.size(), best_at = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i)
      for (size_t rank = 0; rank < best_rank; ++rank)
        if (parts.merges[rank].left == ids[i] && parts.merges[rank].right == ids[i + 1]) {
          best_rank = rank;
          best_at = i;
        }
    if (best_rank == parts.merges.size()) return ids;
    ids[best_at] = parts.merges[best_rank].result;
    ids.erase(ids.begin() + static_cast<ptrdiff_t>(best_at) + 1);
  }
}

TEST(ByteLevel, IsABijectionOntoPrintableCharacters) {
  std::set<char32_t> characters;
  for (int byte = 0; byte < 256; ++byte) {
    const char as_char = static_cast<char>(byte);
    const std::string text = to_byte_level({&as_char, 1});
    EXPECT_EQ(from_byte_level(text), std::string(1, as_char));
    characters.insert(byte_level_character(static_cast<uint8_t>(byte)));
  }
  EXPECT_EQ(characters.size(), 256u);
  EXPECT_EQ(to_byte_level(" \n"), "ĠĊ");
  EXPECT_FALSE(from_byte_level("<｜x｜>").has_value());
  EXPECT_FALSE(from_byte_level("\xc4").has_value());
}

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

TEST(PreTokenizer, SplitsAsV3Does) {
  const PreTokenizer pre_tokenizer(deepseek_v3_splits());
  Matcher matcher;
  std::vector<std::string> pieces;
  pre_tokenizer.split("def f12345(x):\n\n    return  数字かな ok.\xff\xc3!", matcher,
                      [&](std::string_view piece) { pieces.emplace_back(piece); });
  EXPECT_EQ(pieces, (std::vector<std::string>{"def", " f", "123", "45", "(x", "):\n\n", "   ", " return",
                                              "  ", "数字かな", " ok", ".", "\xff", "\xc3", "!"}));
}

TEST(PreTokenizer, BehaviorsOfMatches) {
  const auto split = [](SplitBehavior behavior, bool invert = false) {
    const PreTokenizer pre_tokenizer(
        {{.pattern = "-", .syntax = Regex::Syntax::literal, .behavior = behavior, .invert = invert}});
    Matcher matcher;
    std::string joined;
    pre_tokenizer.split("the-final--countdown", matcher, [&](std::string_view piece) {
      joined += piece;
      joined += '|';
    });
    return joined;
  };
  // As documented by Hugging Face for the same text.
  EXPECT_EQ(split(SplitBehavior::removed), "the|final|countdown|");
  EXPECT_EQ(split(SplitBehavior::isolated), "the|-|final|-|-|countdown|");
  EXPECT_EQ(split(SplitBehavior::merged_with_previous), "the-|final-|-|countdown|");
  EXPECT_EQ(split(SplitBehavior::merged_with_next), "the|-final|-|-countdown|");
  EXPECT_EQ(split(SplitBehavior::contiguous), "the|-|final|--|countdown|");
  EXPECT_EQ(split(SplitBehavior::removed, true), "-|-|-|");
}

TEST(PreTokenizer, BadPatternsAreErrors) {
  expect_error([] { PreTokenizer({{.pattern = "(unclosed"}}); }, "regular expression '(unclosed'");
  const PreTokenizer pre_tokenizer({{.pattern = "(a+)+$"}});
  Matcher matcher;
  expect_error([&] { pre_tokenizer.split(std::string(60, 'a') + "!", matcher, [](std::string_view) {}); },
               "gave up");
}

TEST(Tokenizer, AnyBytesRoundTrip) {
  const Tokenizer tokenizer = sample_tokenizer();
  Encoder encoder(tokenizer);
  Random random(7, 0);
  for (size_t length = 0; length < 300; ++length) {
    const std::string bytes = random_bytes(random, length);
    std::vector<int32_t> ids;
    encoder.encode(bytes, SpecialTokens::ignore, ids);
    ASSERT_EQ(tokenizer.decode(ids), bytes);
    ids.clear();
    encoder.encode(bytes, SpecialTokens::parse, ids);
    ASSERT_EQ(tokenizer.decode(ids), bytes);
  }
  for (int repeat = 0; repeat < 100; ++repeat) {
    std::string text;
    for (int i = 0; i < 50; ++i) append_utf8(text, static_cast<char32_t>(random.below(0xd800)));
    for (int i = 0; i < 50; ++i)
      append_utf8(text, static_cast<char32_t>(0xe000 + random.below(0x110000 - 0xe000)));
    ASSERT_EQ(valid_utf8_prefix(text), text.size());
    ASSERT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  }
}

TEST(Tokenizer, MergesAsTheSlowDefinitionDoes) {
  const Tokenizer tokenizer = sample_tokenizer();
  const TokenizerParts parts = parse_tokenizer_json(tokenizer.json(), "test");
  Encoder encoder(tokenizer, 0);
  Random random(3, 0);
  const std::string text = sample_text(2, 30);
  for (int repeat = 0; repeat < 300; ++repeat) {
    const size_t begin = random.below(text.size());
    const std::string piece = text.substr(begin, 1 + random.below(40));
    std::vector<int32_t> bytes, ids;
    for (const char byte : piece) bytes.push_back(*tokenizer.id(std::string_view(&byte, 1)));
    encoder.encode_piece(piece, ids);
    ASSERT_EQ(ids, merge_by_scanning(parts, bytes)) << piece;
  }
}

TEST(Tokenizer, TheCacheChangesNothing) {
  const Tokenizer tokenizer = sample_tokenizer();
  const std::string text = sample_text(5, 500);
  const std::vector<int32_t> expected = tokenizer.encode(text);
  Encoder tiny(tokenizer, 2), warm(tokenizer);
  for (Encoder* encoder : {&tiny, &warm, &warm}) {
    std::vector<int32_t> ids;
    encoder->encode(text, SpecialTokens::ignore, ids);
    EXPECT_EQ(ids, expected);
  }
  std::vector<std::vector<int32_t>> results(4);
  {
    std::vector<std::jthread> threads;
    for (auto& result : results) threads.emplace_back([&] { result = tokenizer.encode(text); });
  }
  for (const auto& result : results) EXPECT_EQ(result, expected);
}

TEST(Tokenizer, LongRunsTakeNoForever) {
  const Tokenizer tokenizer = sample_tokenizer();
  for (const char* unit : {" ", "a", "\n", "(", "é", "1"}) {
    std::string text;
    while (text.size() < (size_t{1} << 20)) text += unit;
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  }
}

TEST(Tokenizer, SpecialTokensOnlyWhenAsked) {
  const Tokenizer tokenizer = sample_tokenizer();
  const std::string text = "x<｜User｜>y<think><｜end▁of▁sentence｜><｜unknown｜>";
  const auto plain = tokenizer.encode(text, SpecialTokens::ignore);
  const auto parsed = tokenizer.encode(text, SpecialTokens::parse);
  const auto count = [&](const auto& ids, std::string_view token) {
    return std::count(ids.begin(), ids.end(), tokenizer.required_id(token));
  };
  for (const std::string_view token : {kUser, kThinkBegin, kEndOfSentence}) {
    EXPECT_EQ(count(plain, token), 0) << token;
    EXPECT_EQ(count(parsed, token), 1) << token;
  }
  EXPECT_EQ(tokenizer.decode(plain), text);
  EXPECT_EQ(tokenizer.decode(parsed), text);
  EXPECT_EQ(tokenizer.decode(parsed, true), "xy<think><｜unknown｜>");
  EXPECT_EQ(tokenizer.required_id(kBeginOfSentence), 0);
  EXPECT_EQ(tokenizer.required_id(kEndOfSentence), 1);
  EXPECT_EQ(tokenizer.required_id(kPad), 2);
  EXPECT_EQ(tokenizer.required_id(kThinkEnd), tokenizer.vocabulary_size() - 1);
  expect_error([&] { tokenizer.required_id("<none>"); }, "no token '<none>'");
  expect_error([&] { tokenizer.token_bytes(tokenizer.vocabulary_size()); }, "outside the vocabulary");
  expect_error([&] { tokenizer.decode(std::vector<int32_t>{-1}); }, "token id -1");
}

TEST(Tokenizer, WritesAndReadsItself) {
  const Tokenizer tokenizer = sample_tokenizer();
  const TemporaryFolder folder;
  tokenizer.write(folder.path());
  const Tokenizer again = Tokenizer::read(folder.path());
  EXPECT_EQ(again.json(), tokenizer.json());
  EXPECT_EQ(write_tokenizer_json(parse_tokenizer_json(tokenizer.json(), "test")), tokenizer.json());
  EXPECT_NE(read_file(folder / "tokenizer_config.json").find("\"eos_token\": \"<｜end▁of▁sentence｜>\""),
            std::string::npos);
  expect_error([&] { Tokenizer::read(folder / "missing"); }, "missing");
}

TEST(Tokenizer, HostileFilesAreErrors) {
  const std::string good = sample_tokenizer(300).json();
  const auto error = [](const std::string& json) { return [json] { Tokenizer::from_json(json, "t.json"); }; };
  expect_error(error(""), "t.json: not valid JSON");
  expect_error(error("[]"), "not a JSON object");
  expect_error(error("{}"), "model is missing");
  expect_error(error(good.substr(0, good.size() / 2)), "not valid JSON");
  expect_error(error(std::string(100000, '[')), "not valid JSON");
  expect_error(error(replaced(good, "\"id\": 0", "\"id\": 99999999999999999999999")), "t.json");
  expect_error(error(replaced(good, "\"id\": 0", "\"id\": 4000000000")), "not a whole number");
  expect_error(error(replaced(good, "\"id\": 0", "\"id\": -1")), "not a whole number");
  expect_error(error(replaced(good, "\"id\": 0", "\"id\": 0.5")), "not a whole number");
  expect_error(error(replaced(good, "\"id\": 0", "\"id\": 1")), "id 1");
  expect_error(error(replaced(good, "\"BPE\"", "\"Unigram\"")), "not BPE");
  expect_error(error(replaced(good, "\"Ġ\":", "\"ĠĠĠĠĠĠ\":")), "t.json");
  expect_error(error(replaced(good, "\"merges\": [", "\"merges\": [\"no such\",")), "which is no token");
  expect_error(error(replaced(good, "\"merges\": [", "\"merges\": [[\"a\"],")), "1 tokens");
  expect_error(error(replaced(good, "\"normalizer\": null", "\"normalizer\": {\"type\": \"NFC\"}")),
               "normalizer");
  expect_error(error(replaced(good, "\"Isolated\"", "\"Sideways\"")), "behavior 'Sideways'");
  expect_error(error(replaced(good, "{1,3}", "{3,1}")), "regular expression");
  expect_error(error(replaced(good, "\"type\": \"Split\"", "\"type\": \"Metaspace\"")), "Metaspace");
  expect_error(error(replaced(good, "\"lstrip\": false", "\"lstrip\": true")), "lstrip");
}

}  // namespace
}  // namespace moray
