#include "data/tokenizer.h"

#include <algorithm>
#include <set>
#include <thread>

#include "base/utf8.h"
#include "data/byte_level.h"
#include "data/data_testing.h"
#include "data/tokenizer_json.h"

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

TEST(PreTokenizer, SplitsAsV3Does) {
  const PreTokenizer pre_tokenizer(deepseek_v3_splits());
  Matcher matcher;
  std::vector<std::string> pieces;
  pre_tokenizer.split("def f12345(x):\n\n    return  数字かな ok.\xff\xc3!", matcher,
                      [&](std::string_view piece) { pieces.emplace_back(piece); });
  EXPECT_EQ(pieces, (std::vector<std::string>{"def", " f", "123", "45", "(x", "):\n\n", "   ", " return",
                                              "  ", "数字かな", " ok", ".", "\xff", "\xc3", "!"}));
}

// As Hugging Face tokenizers split with the same pattern (Oniguruma).
TEST(PreTokenizer, SplitsAsKimiDoes) {
  const PreTokenizer pre_tokenizer({kimi_split()});
  Matcher matcher;
  std::vector<std::string> pieces;
  pre_tokenizer.split("abc中文Def、の漢IT'S x12345\n\n  yServer中 don't 文字ABc", matcher,
                      [&](std::string_view piece) { pieces.emplace_back(piece); });
  EXPECT_EQ(pieces,
            (std::vector<std::string>{"abc", "中文", "Def", "、の", "漢", "IT'S", " x", "123", "45", "\n\n",
                                      " ", " y", "Server", "中", " don't", " ", "文字", "ABc"}));
}

// Groups of Kimi's split remember every letter.
TEST(PreTokenizer, LongWordsAreSplit) {
  const PreTokenizer pre_tokenizer({kimi_split()});
  Matcher matcher;
  const std::string word(3'000'000, 'a');
  std::vector<size_t> sizes;
  pre_tokenizer.split("ab " + word + " " + word + "\n", matcher,
                      [&](std::string_view piece) { sizes.push_back(piece.size()); });
  EXPECT_EQ(sizes, (std::vector<size_t>{2, word.size() + 1, word.size() + 1, 1}));
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

TEST(Tokenizer, AddedTokensTakeWhiteSpaceAlong) {
  TokenizerParts parts = parse_tokenizer_json(sample_tokenizer().json(), "test");
  for (AddedToken& token : parts.added_tokens) {
    if (token.content == kUser) token.lstrip = true;
    if (token.content == kAssistant) token.rstrip = true;
  }
  const Tokenizer tokenizer = Tokenizer::from_parts(parts, "test");
  const auto ids = tokenizer.encode("a \u3000\n<｜User｜> b <｜Assistant｜> \tc", SpecialTokens::parse);
  EXPECT_EQ(tokenizer.decode(ids), "a<｜User｜> b <｜Assistant｜>c");
  EXPECT_EQ(parse_tokenizer_json(tokenizer.json(), "again").added_tokens, parts.added_tokens);
}

TEST(Tokenizer, NormalizesToNfc) {
  TokenizerParts parts = parse_tokenizer_json(sample_tokenizer().json(), "test");
  parts.normalizer = Normalizer::nfc;
  parts.token_bytes.emplace_back("e\u0301");
  parts.added_tokens.push_back(
      {static_cast<int32_t>(parts.token_bytes.size()) - 1, "e\u0301", false, false, false, false});
  const Tokenizer tokenizer = Tokenizer::from_parts(parts, "test");
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("o\u0308\xff\u1100\u1161")), "ö\xff가");
  EXPECT_EQ(tokenizer.encode("e\u0301").size(), 1u);  // an added word is looked for before
  parts.added_tokens.back().normalized = true;
  EXPECT_EQ(Tokenizer::from_parts(parts, "test").decode(tokenizer.encode("o\u0308")), "ö");
  EXPECT_GT(Tokenizer::from_parts(parts, "test").encode("e\u0301").size(), 1u);
  EXPECT_EQ(parse_tokenizer_json(tokenizer.json(), "again").normalizer, Normalizer::nfc);
}

TEST(Tokenizer, PrefixSpace) {
  TokenizerParts parts = parse_tokenizer_json(sample_tokenizer().json(), "test");
  parts.splits = {gpt2_split()};
  parts.add_prefix_space = true;
  const Tokenizer tokenizer = Tokenizer::from_parts(parts, "test");
  EXPECT_EQ(
      tokenizer.decode(tokenizer.encode("value<｜User｜>b<｜User｜> c<｜User｜>", SpecialTokens::parse)),
      " value<｜User｜> b<｜User｜> c<｜User｜>");
  const TokenizerParts again = parse_tokenizer_json(tokenizer.json(), "again");
  EXPECT_TRUE(again.add_prefix_space);
  EXPECT_EQ(again.splits, parts.splits);
}

TEST(Tokenizer, PostProcessorNamesTheBegin) {
  const auto with = [](const std::string& single) {
    std::string json = sample_tokenizer().json();
    const size_t begin = json.find("\"post_processor\": ") + 18, end = json.find("\n", begin);
    return json.replace(
        begin, end - begin,
        R"({"type": "Sequence", "processors": [{"type": "ByteLevel"}, {"type": "TemplateProcessing",)"
        R"("single": [)" +
            single + "]}]},");
  };
  const std::string begin = R"({"SpecialToken": {"id": "<｜begin▁of▁sentence｜>", "type_id": 0}})";
  const std::string text = R"({"Sequence": {"id": "A", "type_id": 0}})";
  const Tokenizer tokenizer = Tokenizer::from_json(with(begin + "," + text), "t");
  std::vector<int32_t> ids = tokenizer.encode("a");
  tokenizer.begin_prompt(ids);
  EXPECT_EQ(tokenizer.decode(ids), "<｜begin▁of▁sentence｜>a");
  expect_error([&] { Tokenizer::from_json(with(text + "," + begin), "t"); }, "one token before the text");
  expect_error([&] { Tokenizer::from_json(with(begin + "," + text + "," + begin), "t"); },
               "one token before");
}

TEST(Tokenizer, FoldersWithTheirConfig) {
  const TemporaryFolder folder;
  expect_error([&] { Tokenizer::read(folder.path()); }, "no tokenizer: expected tokenizer.json");
  folder.write("tokenizer.model", "x");
  expect_error([&] { Tokenizer::read(folder.path()); }, "SentencePiece");
  const Tokenizer tokenizer = sample_tokenizer();
  folder.write("tokenizer.json", tokenizer.json());
  const auto read = [&](const std::string& config) {
    folder.write("tokenizer_config.json", config);
    return Tokenizer::read(folder.path());
  };
  EXPECT_EQ(read("{}").begin_of_sentence(), std::nullopt);
  const Tokenizer configured = read(
      R"({"bos_token": {"content": "<｜begin▁of▁sentence｜>"}, "eos_token": "<｜end▁of▁sentence｜>", "add_bos_token": true,)"
      R"("added_tokens_decoder": {"900": {"content": "<extra>", "special": true}}})");
  EXPECT_EQ(configured.begin_of_sentence(), 0);
  EXPECT_EQ(configured.end_of_sentence(), 1);
  EXPECT_EQ(configured.required_id("<extra>"), 900);
  EXPECT_EQ(configured.json(), tokenizer.json());
  std::vector<int32_t> ids;
  configured.begin_prompt(ids);
  EXPECT_EQ(ids, std::vector<int32_t>{0});
  const auto error = [&](const std::string& config, const std::string& part) {
    expect_error([&] { read(config); }, part);
  };
  error("[]", "not a JSON object");
  error(R"({"added_tokens_decoder": {"x": {"content": "a"}}})", "'x' is no token id");
  error(R"({"added_tokens_decoder": {"99999999": {"content": "a"}}})", "no token id");
  error(R"({"added_tokens_decoder": {"0": {"content": "other"}}})", "token 0 is 'other'");
  error(R"({"added_tokens_decoder": {"50": {"content": "<new>"}}})", "token 50 is '<new>'");
  error(R"({"added_tokens_decoder": {"900": {"content": ""}}})", "token 900 is empty");
  error(R"({"bos_token": 5})", "bos_token");
}

TEST(Regex, MeansWhatTokenizersMean) {
  Matcher matcher;
  const auto found = [&](const char* pattern, std::string_view text) {
    size_t begin = 0, end = 0;
    return matcher.find(Regex(pattern), text, 0, begin, end) ? std::string(text.substr(begin, end - begin))
                                                             : "-";
  };
  EXPECT_EQ(found(R"([\p{L}&&[^\p{Han}]]+)", "中abc文"), "abc");
  EXPECT_EQ(found(R"([\p{L}&&[a-f]&&[^b]]+)", "xbacfz"), "acf");
  EXPECT_EQ(found(R"(\p{Han}+)", "、中文、"), "中文");  // the comma's Script is Common
  EXPECT_EQ(found(R"(\P{Han}+)", "中、文"), "、");
  EXPECT_EQ(found(R"(\s+$)", "a \nb"), " ");
  EXPECT_EQ(found(R"([]a]+)", "x]a"), "]a");
  EXPECT_EQ(found(R"([[:digit:]x]+)", "ax1"), "x1");
  expect_error([] { Regex(R"([a&&b])"); }, "not supported");
  expect_error([] { Regex(R"([^a&&[b]])"); }, "negated intersection");
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
  expect_error(error(replaced(good, "\"normalizer\": null", "\"normalizer\": {\"type\": \"NFKC\"}")),
               "normalizer: type 'NFKC'");
  expect_error(
      error(replaced(good, "\"decoder\": {\"type\": \"ByteLevel\"", "\"decoder\": {\"type\": \"WordPiece\"")),
      "decoder: type 'WordPiece'");
  expect_error(error(replaced(good, "\"post_processor\": {\"type\": \"ByteLevel\"",
                              "\"post_processor\": {\"type\": \"BertProcessing\"")),
               "post_processor: type 'BertProcessing'");
  expect_error(
      error(replaced(good, "{\"type\": \"ByteLevel\"",
                     "{\"type\": \"ByteLevel\", \"add_prefix_space\": false}, {\"type\": \"Digits\"")),
      "'Digits' after ByteLevel");
  expect_error(error(replaced(good, "\"single_word\": false", "\"single_word\": true")), "single_word");
  expect_error(error(replaced(good, "\"Isolated\"", "\"Sideways\"")), "behavior 'Sideways'");
  expect_error(error(replaced(good, "{1,3}", "{3,1}")), "regular expression");
  expect_error(error(replaced(good, "\"type\": \"Split\"", "\"type\": \"Metaspace\"")), "Metaspace");
}

}  // namespace
}  // namespace moray
