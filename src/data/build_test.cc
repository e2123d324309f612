#include "data/build.h"

#include <algorithm>
#include <map>
#include <set>

#include "data/data_testing.h"
#include "data/dataset.h"

namespace moray {
namespace {

// Every file of a folder with its content.
std::map<std::string, std::string> contents(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(folder))
    files[entry.path().filename().string()] = read_file(entry.path());
  return files;
}

void write_documents(const TemporaryFolder& folder, int documents) {
  for (int i = 0; i < documents; ++i)
    folder.write("corpus/" + std::to_string(i) + ".py", sample_text(static_cast<uint64_t>(i), 20 + i % 7));
}

BuildOptions options_for(const TemporaryFolder& folder) {
  BuildOptions options;
  options.corpora = {{.name = "code", .path = folder / "corpus"}};
  options.held_out = {.seed = 3, .fraction = 0.1};
  options.threads = 1;
  return options;
}

TEST(DocumentEncoder, FimCutsRecombineAtCharacters) {
  const std::string text = "größe 数字 🐍 end";
  std::set<std::pair<size_t, size_t>> cuts;
  for (uint64_t key = 0; key < 500; ++key) {
    const FimParts parts = cut_for_fim(text, key);
    EXPECT_EQ(std::string(parts.prefix) + std::string(parts.middle) + std::string(parts.suffix), text);
    for (const std::string_view part : {parts.prefix, parts.middle, parts.suffix})
      EXPECT_EQ(valid_utf8_prefix(part), part.size());
    cuts.insert({parts.prefix.size(), parts.suffix.size()});
  }
  EXPECT_GT(cuts.size(), 50u);
  const FimParts parts = cut_for_fim("\x80\x80\x80\x80\x80\xff", 1);  // ends on any bytes
  EXPECT_EQ(parts.prefix.size() + parts.middle.size() + parts.suffix.size(), 6u);
}

TEST(DocumentEncoder, FimIsInPsmOrder) {
  const Tokenizer tokenizer = sample_tokenizer();
  DocumentEncoder encoder(tokenizer, {.fim_rate = 1, .split_rate = 0.5});
  for (uint64_t key = 0; key < 50; ++key) {
    const std::string text = sample_text(key, 10);
    std::vector<int32_t> ids;
    EXPECT_TRUE(encoder.encode_training(text, key, ids));
    const auto at = [&](std::string_view token) {
      EXPECT_EQ(std::count(ids.begin(), ids.end(), tokenizer.required_id(token)), 1);
      return std::find(ids.begin(), ids.end(), tokenizer.required_id(token)) - ids.begin();
    };
    const ptrdiff_t begin = at(kFimBegin), hole = at(kFimHole), end = at(kFimEnd), eos = at(kEndOfSentence);
    ASSERT_EQ(begin, 0);
    ASSERT_LT(hole, end);
    ASSERT_EQ(eos, static_cast<ptrdiff_t>(ids.size()) - 1);
    const auto part = [&](ptrdiff_t from, ptrdiff_t to) {
      return tokenizer.decode(
          std::span(ids).subspan(static_cast<size_t>(from), static_cast<size_t>(to - from)));
    };
    EXPECT_EQ(part(1, hole) + part(end + 1, eos) + part(hole + 1, end), text);
  }
}

TEST(DocumentEncoder, SplitsAShareOfJoinedTokens) {
  const Tokenizer tokenizer = sample_tokenizer();
  const int32_t joined = tokenizer.required_id("):\n");
  DocumentEncoder encoder(tokenizer, {.fim_rate = 0, .split_rate = 0.3});
  EXPECT_EQ(tokenizer.decode(encoder.split_of(joined)), "):\n");
  EXPECT_EQ(tokenizer.token_bytes(encoder.split_of(joined).back()), "\n");
  EXPECT_TRUE(encoder.split_of(tokenizer.required_id("\n")).empty());
  EXPECT_TRUE(encoder.split_of(tokenizer.required_id(")")).empty());
  std::string text;
  for (int i = 0; i < 4000; ++i) text += "f():\n";
  std::vector<int32_t> plain, split, again;
  encoder.encode_held_out(text, plain);
  EXPECT_FALSE(encoder.encode_training(text, 5, split));
  encoder.encode_training(text, 5, again);
  EXPECT_EQ(split, again);
  const auto is_joined = [&](int32_t id) { return !encoder.split_of(id).empty(); };
  const auto before = std::count_if(plain.begin(), plain.end(), is_joined);
  const auto after = std::count_if(split.begin(), split.end(), is_joined);
  EXPECT_EQ(before, 4000);
  EXPECT_NEAR(static_cast<double>(after), 2800, 120);
  split.pop_back();
  EXPECT_EQ(tokenizer.decode(split), text);
}

TEST(DocumentEncoder, BadOptionsAreErrors) {
  const Tokenizer tokenizer = sample_tokenizer();
  expect_error([&] { DocumentEncoder(tokenizer, {.fim_rate = 1.5}); }, "fim_rate 1.5");
  expect_error([&] { DocumentEncoder(tokenizer, {.split_rate = -1}); }, "split_rate -1");
  expect_error([&] { DocumentEncoder(tokenizer, {.end_token = "<eos>"}); }, "no token '<eos>'");
}

TEST(Build, ThreadsAndRepetitionChangeNoByte) {
  const TemporaryFolder folder;
  write_documents(folder, 120);
  const Tokenizer tokenizer = sample_tokenizer();
  BuildOptions options = options_for(folder);
  options.shard_tokens = 5000;
  build_dataset(tokenizer, folder / "one", options);
  options.threads = 4;
  build_dataset(tokenizer, folder / "four", options);
  const auto one = contents(folder / "one");
  EXPECT_EQ(contents(folder / "four"), one);
  EXPECT_TRUE(one.contains("train-code-00001.bin"));
  options.replace = true;
  build_dataset(tokenizer, folder / "one", options);
  EXPECT_EQ(contents(folder / "one"), one);
  options.held_out.seed = 4;
  build_dataset(tokenizer, folder / "one", options);
  EXPECT_NE(contents(folder / "one"), one);
}

TEST(Build, HoldsOutPlainDocuments) {
  const TemporaryFolder folder;
  write_documents(folder, 120);
  const Tokenizer tokenizer = sample_tokenizer();
  BuildOptions options = options_for(folder);
  options.documents.fim_rate = 1;
  const DatasetManifest manifest = build_dataset(tokenizer, folder / "set", options);
  const CorpusManifest& corpus = manifest.corpora[0];
  EXPECT_EQ(corpus.fim_documents, static_cast<int64_t>(corpus.train.documents));
  EXPECT_EQ(corpus.train.documents + corpus.held_out.documents, 120u);
  ASSERT_GT(corpus.held_out.documents, 2u);
  // The held-out tokens without end tokens are exactly held_out.txt.
  const Dataset dataset = Dataset::open(folder / "set");
  std::vector<int32_t> tokens(dataset.held_out_tokens()), starts(tokens.size());
  dataset.held_out_window(0, tokens, starts);
  const std::string text = read_file(dataset.held_out_text());
  EXPECT_EQ(tokenizer.decode(tokens, true), text);
  EXPECT_EQ(dataset.held_out_bytes(), text.size());
  for (size_t t = 1; t < tokens.size(); ++t) {
    const bool begins = tokens[t - 1] == tokenizer.required_id(kEndOfSentence);
    ASSERT_EQ(starts[t], begins ? static_cast<int32_t>(t) : starts[t - 1]);
  }
  std::vector<int32_t> window(100), window_starts(100);
  dataset.held_out_window(50, window, window_starts);
  EXPECT_TRUE(std::equal(window.begin(), window.end(), tokens.begin() + 50));
  for (size_t t = 0; t < window.size(); ++t) EXPECT_EQ(window_starts[t], std::max(0, starts[t + 50] - 50));
  expect_error([&] { dataset.held_out_window(tokens.size(), window); }, "held-out tokens");
}

TEST(Build, FailuresLeaveNothingBehind) {
  const TemporaryFolder folder;
  write_documents(folder, 10);
  const Tokenizer tokenizer = sample_tokenizer();
  const auto entries = [&] {
    return std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator());
  };
  const auto before = entries();
  BuildOptions options = options_for(folder);
  options.corpora.push_back({.name = "bad", .path = folder.write("corpus/x.jsonl", "{\"text\": 1}")});
  expect_error([&] { build_dataset(tokenizer, folder / "set", options); }, "x.jsonl:1: no text");
  options.corpora.resize(1);
  fs::remove(folder / "corpus/x.jsonl");
  options.documents.end_token = "<missing>";
  expect_error([&] { build_dataset(tokenizer, folder / "set", options); }, "no token '<missing>'");
  options = options_for(folder);
  options.shard_tokens = 0;
  expect_error([&] { build_dataset(tokenizer, folder / "set", options); }, "shard_tokens 0");
  EXPECT_EQ(entries(), before);
  // A build that was killed (no process has this number) left its folder: the next one sweeps it.
  folder.write(".set.building-2000000000/train-code-00000.bin", "half");
  expect_error([&] { build_dataset(tokenizer, folder / "set", options); }, "shard_tokens 0");
  EXPECT_EQ(entries(), before);

  options = options_for(folder);
  options.corpora[0].path = folder.write("empty/a.py", "").parent_path();
  expect_error([&] { build_dataset(tokenizer, folder / "set", options); }, "no document for training");
  options = options_for(folder);
  expect_error([&] { build_dataset(tokenizer, folder / "corpus", options); }, "exists already");
  options.replace = true;
  expect_error([&] { build_dataset(tokenizer, folder / "corpus", options); }, "is no dataset");
  EXPECT_EQ(entries(), before + 1);
}

}  // namespace
}  // namespace moray
