#include "data/bpe_train.h"

#include <algorithm>
#include <map>

#include "data/data_testing.h"
#include "data/tokenizer_json.h"

namespace moray {
namespace {

// Training by recounting every pair of every piece after every merge.
std::vector<std::string> tokens_by_recounting(const std::string& text, const Tokenizer& trained) {
  const TokenizerParts parts = parse_tokenizer_json(trained.json(), "test");
  const PreTokenizer pre_tokenizer(parts.splits);
  Matcher matcher;
  std::vector<std::vector<int32_t>> words;
  pre_tokenizer.split(text, matcher, [&](std::string_view piece) {
    words.emplace_back();
    for (const char byte : piece) words.back().push_back(*trained.id(std::string_view(&byte, 1)));
  });
  std::vector<std::string> tokens(parts.token_bytes.begin(), parts.token_bytes.begin() + 259);
  while (tokens.size() + 7 < parts.token_bytes.size()) {
    std::map<std::pair<int32_t, int32_t>, int64_t> counts;
    for (const auto& word : words)
      for (size_t i = 0; i + 1 < word.size(); ++i) ++counts[{word[i], word[i + 1]}];
    const auto best = std::max_element(counts.begin(), counts.end(), [](const auto& a, const auto& b) {
      return a.second != b.second ? a.second < b.second : a.first > b.first;
    });
    if (best == counts.end() || best->second < 2) break;
    const auto [left, right] = best->first;
    const auto result = static_cast<int32_t>(tokens.size());
    tokens.push_back(tokens[static_cast<size_t>(left)] + tokens[static_cast<size_t>(right)]);
    for (auto& word : words)
      for (size_t i = 0; i + 1 < word.size(); ++i)
        if (word[i] == left && word[i + 1] == right) {
          word[i] = result;
          word.erase(word.begin() + static_cast<ptrdiff_t>(i) + 1);
        }
  }
  return tokens;
}

TEST(BpeTrain, AgreesWithRecounting) {
  std::string text =
      sample_text(1, 60) + std::string(37, '#') + "\n" + std::string(50, ' ') + "aaaaaaa bbbb aaa\n";
  BpeTrainOptions options;
  options.vocabulary_size = 340;
  const Tokenizer trained = train_bpe(documents_of({text}), options);
  const std::vector<std::string> expected = tokens_by_recounting(text, trained);
  for (size_t id = 3; id < expected.size(); ++id)
    EXPECT_EQ(trained.token_bytes(static_cast<int32_t>(id)), expected[id]) << id;
  EXPECT_EQ(trained.vocabulary_size(), 340);
}

TEST(BpeTrain, TheOrderOfDocumentsDoesNotMatter) {
  std::vector<std::string> texts;
  for (uint64_t i = 0; i < 20; ++i) texts.push_back(sample_text(i, 20));
  const std::string forward = train_bpe(documents_of(texts), {}).json();
  std::reverse(texts.begin(), texts.end());
  EXPECT_EQ(train_bpe(documents_of(texts), {}).json(), forward);
}

TEST(BpeTrain, SmallTextsGiveSmallVocabularies) {
  const Tokenizer tokenizer = train_bpe(documents_of({"ab ab"}), {});
  EXPECT_EQ(tokenizer.vocabulary_size(), 256 + 10 + 1);  // "ab" alone repeats
  EXPECT_TRUE(tokenizer.id("ab").has_value());
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("ab\xff")), "ab\xff");
}

TEST(BpeTrain, BadOptionsAreErrors) {
  expect_error([] { train_bpe(documents_of({}), {}); }, "no text");
  BpeTrainOptions options;
  options.vocabulary_size = 265;
  expect_error([&] { train_bpe(documents_of({"a"}), options); }, "vocabulary size 265");
  options.vocabulary_size = int64_t{1} << 40;
  expect_error([&] { train_bpe(documents_of({"a"}), options); }, "vocabulary size");
  options = {};
  options.last_tokens.push_back(options.first_tokens[0]);
  expect_error([&] { train_bpe(documents_of({"a"}), options); }, "named twice");
}

}  // namespace
}  // namespace moray
