#include "data/dataset.h"

#include <algorithm>
#include <map>
#include <set>

#include "data/build.h"
#include "data/data_testing.h"

namespace moray {
namespace {

// Two corpora of different size in several shards, built once.
class DatasetTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TemporaryFolder;
    for (int i = 0; i < 90; ++i)
      folder_->write("code/" + std::to_string(i) + ".py", sample_text(static_cast<uint64_t>(i), 25));
    for (int i = 0; i < 30; ++i)
      folder_->write("text/" + std::to_string(i) + ".txt", sample_text(static_cast<uint64_t>(1000 + i), 25));
    build("set", 0, 0);
  }
  static void TearDownTestSuite() {
    delete folder_;
    folder_ = nullptr;
  }
  static void build(const std::string& name, double code_weight, double text_weight) {
    BuildOptions options;
    options.corpora = {{.name = "code", .path = *folder_ / "code", .weight = code_weight},
                       {.name = "text", .path = *folder_ / "text", .weight = text_weight}};
    options.threads = 2;
    options.shard_tokens = 3000;
    options.held_out = {.seed = 1, .fraction = 0.1};
    build_dataset(sample_tokenizer(), *folder_ / name, options);
  }
  static fs::path set(const std::string& name = "set") { return *folder_ / name; }

  struct Sample {
    std::vector<int32_t> tokens, starts;
    bool operator==(const Sample&) const = default;
  };
  static Sample sample(const Dataset& dataset, uint64_t n, int64_t length = 64, int64_t extra = 2) {
    Sample result{std::vector<int32_t>(static_cast<size_t>(length + extra)),
                  std::vector<int32_t>(static_cast<size_t>(length))};
    dataset.sample(n, length, extra, result.tokens, result.starts);
    return result;
  }

  // All training tokens of a corpus, read from the files alone.
  static std::vector<int32_t> stream(const Dataset& dataset, size_t corpus) {
    std::vector<int32_t> tokens;
    for (const auto& file : dataset.manifest().corpora[corpus].train.shards) {
      const Shard shard(set() / file.name);
      const size_t old = tokens.size();
      tokens.resize(old + shard.tokens());
      shard.read(0, std::span(tokens).subspan(old));
    }
    return tokens;
  }

  static TemporaryFolder* folder_;
};
TemporaryFolder* DatasetTest::folder_ = nullptr;

TEST_F(DatasetTest, SamplesArePureFunctions) {
  const Dataset dataset = Dataset::open(set(), 5), again = Dataset::open(set(), 5),
                other = Dataset::open(set(), 6);
  std::map<uint64_t, Sample> seen;
  for (const uint64_t n : {7ull, 0ull, 1ull, 7ull, 123456789012345ull, 1ull}) {
    const Sample got = sample(dataset, n);
    EXPECT_EQ(sample(again, n), got);
    EXPECT_EQ(seen.emplace(n, got).first->second, got);
  }
  int equal = 0;
  for (uint64_t n = 0; n < 50; ++n) equal += sample(other, n) == sample(dataset, n);
  EXPECT_LT(equal, 3);
}

TEST_F(DatasetTest, WindowsComeFromTheStream) {
  const Dataset dataset = Dataset::open(set(), 5);
  std::vector<std::vector<int32_t>> rings;
  for (size_t corpus = 0; corpus < 2; ++corpus) {
    rings.push_back(stream(dataset, corpus));
    const std::vector<int32_t> once = rings.back();
    rings.back().insert(rings.back().end(), once.begin(),
                        once.end());  // long enough for windows over the seam
  }
  const int32_t end = dataset.tokenizer().required_id(kEndOfSentence);
  for (uint64_t n = 0; n < 300; ++n) {
    const Sample got = sample(dataset, n);
    const bool found = std::any_of(rings.begin(), rings.end(), [&](const auto& ring) {
      return std::search(ring.begin(), ring.end(), got.tokens.begin(), got.tokens.end()) != ring.end();
    });
    ASSERT_TRUE(found) << n;
    int32_t start = 0;
    for (size_t t = 0; t < got.starts.size(); ++t) {
      if (t > 0 && got.tokens[t - 1] == end) start = static_cast<int32_t>(t);
      ASSERT_EQ(got.starts[t], start);
    }
  }
}

TEST_F(DatasetTest, AnEpochVisitsEveryWindowOnce) {
  BuildOptions options;
  options.corpora = {{.name = "code", .path = *folder_ / "code"}};
  build_dataset(sample_tokenizer(), set("single"), options);
  const Dataset dataset = Dataset::open(set("single"), 2);
  const uint64_t length = 32, windows = dataset.train_tokens() / length;
  std::map<int32_t, int64_t> counts;
  std::set<std::vector<int32_t>> distinct;
  for (uint64_t n = 0; n < windows; ++n) {
    const Sample got = sample(dataset, n, static_cast<int64_t>(length), 0);
    distinct.insert(got.tokens);
    for (const int32_t token : got.tokens) ++counts[token];
  }
  EXPECT_GT(distinct.size(), windows * 95 / 100);
  // Windows of one epoch do not overlap: together they are the stream but for less than one window.
  uint64_t missing = 0;
  const Shard shard(set("single") / "train-code-00000.bin");
  std::vector<int32_t> tokens(shard.tokens());
  shard.read(0, tokens);
  for (const int32_t token : tokens) --counts[token];
  for (const auto& [token, count] : counts) {
    EXPECT_LE(count, 0) << token;
    missing += static_cast<uint64_t>(-count);
  }
  EXPECT_LT(missing, length);
  EXPECT_NE(sample(dataset, windows, 32, 0), sample(dataset, 0, 32, 0));
}

TEST_F(DatasetTest, SequencesLongerThanTheCorpus) {
  const Dataset dataset = Dataset::open(set(), 1);
  const auto length = static_cast<int64_t>(dataset.train_tokens() * 2);
  EXPECT_EQ(sample(dataset, 3, length).starts.size(), static_cast<size_t>(length));
  expect_error([&] { dataset.sample(0, 0, 1, {}, {}); }, "a sample of 0 tokens");
}

TEST(MixturePattern, MeetsTheShares) {
  const MixturePattern pattern({0.7, 0.2, 0.1, 1e-9});
  std::vector<uint64_t> counts(4);
  double worst = 0;
  for (uint64_t n = 0; n < 40000; ++n) {
    const auto place = pattern.at(n);
    ASSERT_EQ(place.index, counts[place.corpus]) << n;  // no sample of a corpus left out or taken twice
    ++counts[place.corpus];
    worst = std::max(worst, std::abs(static_cast<double>(counts[0]) - 0.7 * static_cast<double>(n + 1)));
  }
  EXPECT_NEAR(static_cast<double>(counts[0]), 28000, 20);
  EXPECT_NEAR(static_cast<double>(counts[1]), 8000, 20);
  EXPECT_GT(counts[3], 0u);
  EXPECT_LT(worst, 10) << "the corpora are not spread evenly";
}

TEST_F(DatasetTest, WeightsDecideTheMixture) {
  build("weighted", 1, 3);
  const auto share_of_code = [&](const Dataset& dataset) {
    const std::vector<int32_t> code = stream(dataset, 0);
    std::vector<int32_t> ring = code;
    ring.insert(ring.end(), code.begin(), code.end());
    int from_code = 0;
    for (uint64_t n = 0; n < 400; ++n) {
      const Sample got = sample(dataset, n, 64, 0);
      from_code += std::search(ring.begin(), ring.end(), got.tokens.begin(), got.tokens.end()) != ring.end();
    }
    return from_code / 400.0;
  };
  EXPECT_NEAR(share_of_code(Dataset::open(set("weighted"))), 0.25, 0.01);
  EXPECT_NEAR(share_of_code(Dataset::open(set())), 0.75, 0.03);  // by size: 90 documents of 120
}

TEST_F(DatasetTest, DamageIsNoticed) {
  const fs::path copy = set("copy");
  fs::copy(set(), copy);
  for (const auto& entry : fs::directory_iterator(set())) {
    const std::string name = entry.path().filename().string();
    if (name == "tokenizer_config.json") continue;  // for other readers only
    const std::string good = read_file(entry.path());
    Random random(name_stream(name), 0);
    for (int repeat = 0; repeat < 12; ++repeat) {
      std::string bad = good;
      const size_t at = random.below(bad.size());
      bad[at] = static_cast<char>(bad[at] ^ (1 << random.below(8)));
      write_file_atomically(copy / name, bad);
      expect_error([&] { Dataset::open(copy); }, name);
    }
    for (const size_t size : {size_t{0}, size_t{10}, good.size() / 2, good.size() - 1}) {
      write_file_atomically(copy / name, good.substr(0, size));
      expect_error([&] { Dataset::open(copy); }, name);
    }
    write_file_atomically(copy / name, good + std::string(8, '\0'));
    expect_error([&] { Dataset::open(copy); }, name);
    fs::remove(copy / name);
    expect_error([&] { Dataset::open(copy); }, name);
    write_file_atomically(copy / name, good);
    EXPECT_NO_THROW(Dataset::open(copy));
  }
  write_file_atomically(copy / "tokenizer.json", sample_tokenizer(300).json());
  expect_error([&] { Dataset::open(copy); }, "not the tokenizer this dataset was built with");
}

TEST_F(DatasetTest, ShardsRefuseWhatTheHeaderDoesNotAllow) {
  const fs::path path = set("bad.bin");
  ShardBuilder builder(300);
  const std::vector<int32_t> tokens = {1, 299, 2}, beyond = {1, 300};
  builder.add_document(tokens, 5);
  builder.write(path);
  const Shard shard(path);
  std::vector<int32_t> read(3);
  shard.read(0, read);
  EXPECT_EQ(read, tokens);
  builder.add_document(beyond, 5);
  builder.write(path);
  expect_error([&] { Shard{path}; }, "token id 300 is outside the vocabulary of 300");
  builder.write(path);
  EXPECT_EQ(Shard(path).tokens(), 0u);
  ShardBuilder wide(100000);
  const std::vector<int32_t> large = {99999, 0, 70000};
  wide.add_document(large, 9);
  wide.add_document(tokens, 9);
  wide.write(path);
  const Shard wide_shard(path);
  wide_shard.read(0, read);
  EXPECT_EQ(read, large);
  EXPECT_EQ(wide_shard.document_starts()[1], 3u);
  expect_error([&] { Shard{set("none.bin")}; }, "none.bin");
}

}  // namespace
}  // namespace moray
