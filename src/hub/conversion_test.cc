// Shards converted as they come: never many on disk, whatever ends a pull and when.
#include "hub/conversion.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/test_help.h"
#include "hub/pull.h"
#include "hub/test_hub.h"

namespace moray::hub {
namespace {

using test::error_of;
using test::Reply;

std::string shard_name(size_t i) {
  return fmt::format("model-{:05}-of-00006.safetensors", i + 1);
}
std::string shard_content(size_t i) {
  return std::string(50'000 + 1000 * i, static_cast<char>('a' + i));
}

// A conversion that needs each shard and the one before.
class ConvertingPull : public testing::Test {
 protected:
  ConvertingPull() {
    remote_.files = {{"config.json", {"original"}},
                     {"tokenizer.json", {"{}"}},
                     {"model.safetensors.index.json", {"index"}}};
    for (size_t i = 0; i < 6; ++i) remote_.files[shard_name(i)] = {shard_content(i), true};
    conversion_ = {
        "tenth",
        0.01,
        [](const fs::path& originals) { EXPECT_EQ(read_file(originals / "config.json"), "original"); },
        [](const fs::path&, const std::string& shard) {
          const size_t i = index_of(shard);
          return i == 0 ? std::vector{shard} : std::vector{shard_name(i - 1), shard};
        },
        [this](const fs::path& originals, const std::string& shard, const fs::path& into) {
          if (shard == failing_) fail("the power is gone");
          const auto there = std::count_if(fs::directory_iterator(originals), {}, [](const auto& entry) {
            return is_shard(entry.path().filename());
          });
          most_there_ = std::max<int64_t>(most_there_, there);
          converted_.push_back(shard);
          const size_t i = index_of(shard);
          EXPECT_EQ(read_file(originals / shard), shard_content(i));
          if (i > 0) {
            EXPECT_EQ(read_file(originals / shard_name(i - 1)), shard_content(i - 1));
          }
          write_file_atomically(into, result(i));
        },
        [](const fs::path&, const fs::path& folder, const std::vector<std::string>& shards) {
          write_file_atomically(folder / "config.json", "converted");
          write_file_atomically(folder / "model.safetensors.index.json", std::to_string(shards.size()));
        }};
  }

  static size_t index_of(const std::string& shard) { return std::stoul(shard.substr(6, 5)) - 1; }
  static std::string result(size_t i) { return fmt::format("converted {}", i); }

  PullSummary pull_now() {
    return pull(Hub{remote_.endpoint(), "", 0.001}, options_, [&](uint64_t done, uint64_t total) {
      progress_ = {done, total};
    });
  }
  void expect_converted() {
    for (size_t i = 0; i < 6; ++i) EXPECT_EQ(read_file(options_.output / shard_name(i)), result(i));
    EXPECT_EQ(read_file(options_.output / "config.json"), "converted");
    EXPECT_EQ(read_file(options_.output / "model.safetensors.index.json"), "6");
    EXPECT_EQ(read_file(options_.output / "tokenizer.json"), "{}");
    EXPECT_FALSE(fs::exists(options_.output / ".originals") || fs::exists(part()));
  }
  fs::path part() const { return options_.output.string() + ".part"; }

  test::ScratchFolder folder_;
  test::TestHub remote_;
  Conversion conversion_;
  std::string failing_;
  int64_t most_there_ = 0;
  std::vector<std::string> converted_;
  PullOptions options_{
      .repository = "org/name", .output = folder_ / "name", .connections = 2, .conversion = &conversion_};
  std::pair<uint64_t, uint64_t> progress_;
};

TEST_F(ConvertingPull, FewOriginalsAreOnDiskAtATime) {
  const PullSummary summary = pull_now();
  expect_converted();
  EXPECT_EQ(converted_.size(), 6u);
  EXPECT_LE(most_there_, 4);  // two that are needed, two on their way
  EXPECT_EQ(progress_, std::pair(summary.bytes, summary.bytes));
  EXPECT_TRUE(pull_now().was_complete);
  EXPECT_EQ(converted_.size(), 6u);
}

TEST_F(ConvertingPull, ALaterPullGoesOnAfterAFailedConversion) {
  failing_ = shard_name(3);
  EXPECT_EQ(error_of([&] { pull_now(); }), "the power is gone");
  EXPECT_FALSE(fs::exists(options_.output));
  EXPECT_TRUE(fs::exists(part() / shard_name(2)) && !fs::exists(part() / shard_name(3)));
  failing_.clear();
  converted_.clear();
  const PullSummary summary = pull_now();
  EXPECT_EQ(converted_, (std::vector{shard_name(3), shard_name(4), shard_name(5)}));
  expect_converted();
  EXPECT_EQ(progress_, std::pair(summary.bytes, summary.bytes));
}

TEST_F(ConvertingPull, AndAfterAFailedDownload) {
  remote_.add_fault(shard_name(4), [](Reply& reply) { reply.cut = 12'345; });
  for (int i = 0; i < kMostAttempts; ++i)
    remote_.add_fault(shard_name(4), [](Reply& reply) { reply = {503, {}, ""}; });
  EXPECT_NE(error_of([&] { pull_now(); }).find("HTTP status 503"), std::string::npos);
  EXPECT_EQ(fs::file_size(part() / ".originals" / (shard_name(4) + ".part")), 12'345u);
  pull_now();
  expect_converted();
  const auto seen = remote_.storage().seen();
  EXPECT_TRUE(std::ranges::any_of(seen, [](const auto& request) { return request.range == "bytes=12345-"; }));
}

TEST_F(ConvertingPull, FoldersOfAnotherKindAreRefused) {
  failing_ = shard_name(3);
  EXPECT_NE(error_of([&] { pull_now(); }), "no error");
  options_.conversion = nullptr;
  EXPECT_NE(error_of([&] { pull_now(); }).find("is the beginning of a pull with --quantize tenth"),
            std::string::npos);
  options_.conversion = &conversion_;
  failing_.clear();
  pull_now();
  options_.conversion = nullptr;
  EXPECT_NE(error_of([&] { pull_now(); }).find("quantized to tenth"), std::string::npos);
}

// What was made of an older commit's shards is made again.
TEST_F(ConvertingPull, AnotherCommitBeginsAnew) {
  failing_ = shard_name(3);
  EXPECT_NE(error_of([&] { pull_now(); }), "no error");
  failing_.clear();
  converted_.clear();
  remote_.commit = std::string(40, 'c');
  pull_now();
  EXPECT_EQ(converted_.size(), 6u);
  expect_converted();
}

TEST_F(ConvertingPull, WhatCannotBeConvertedIsSaidBeforeAnyShardComes) {
  conversion_.check = [](const fs::path&) { fail("weights of another kind"); };
  EXPECT_EQ(error_of([&] { pull_now(); }), "weights of another kind");
  EXPECT_TRUE(remote_.storage().seen().empty());
}

}  // namespace
}  // namespace moray::hub
