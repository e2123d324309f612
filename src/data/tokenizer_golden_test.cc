// Hugging Face tokenizers' ids for the files of tests/golden/tokenizer (see make_vectors.py there).
#include <simdjson.h>

#include "data/data_testing.h"
#include "data/tokenizer.h"

namespace moray {
namespace {

fs::path golden(const std::string& name) {
  return fs::path(MORAY_SOURCE_DIR) / "tests" / "golden" / "tokenizer" / name;
}

TEST(TokenizerGolden, TrainingGivesTheCommittedFile) {
  BpeTrainOptions options;
  options.vocabulary_size = 700;
  const Tokenizer trained = train_bpe(documents_of({read_file(golden("corpus.txt"))}), options);
  EXPECT_EQ(trained.json(), read_file(golden("moray_tokenizer.json")));
}

TEST(TokenizerGolden, SameIdsAsHuggingFace) {
  const std::map<std::string, Tokenizer> tokenizers = {
      {"moray_tokenizer.json", Tokenizer::read(golden("moray_tokenizer.json"))},
      {"gpt2_style.json", Tokenizer::read(golden("gpt2_style.json"))}};
  simdjson::dom::parser parser;
  int64_t vectors = 0;
  for (const auto vector : parser.load_many(golden("vectors.jsonl").string())) {
    const std::string name(vector["tokenizer"].get_string().value());
    const std::string text(vector["text"].get_string().value());
    std::vector<int32_t> expected;
    for (const auto id : vector["ids"].get_array())
      expected.push_back(static_cast<int32_t>(id.get_int64().value()));
    const Tokenizer& tokenizer = tokenizers.at(name);
    EXPECT_EQ(tokenizer.encode(text, SpecialTokens::parse), expected) << name << ": " << text;
    EXPECT_EQ(tokenizer.decode(expected), text);
    ++vectors;
  }
  EXPECT_EQ(vectors, 326);
}

}  // namespace
}  // namespace moray
