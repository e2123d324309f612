// The packed file: the same weights to the bit, or nothing.
#include "serve/packed_cache.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "backend/register.h"
#include "base/test_help.h"
#include "serve/engine.h"

namespace moray {
namespace {

struct Machine {
  Machine() : pool(2) { register_backends(); }
  Allocator allocator;
  ThreadPool pool;
  Exec exec{Device::cpu, &pool, &allocator, DType::f32};
};

class PackedCache : public testing::TestWithParam<const char*> {
 protected:
  PackedCache() {
    fs::copy(fs::path(MORAY_SOURCE_DIR) / "tests/golden/inference" / GetParam(), folder());
    config_ = deepseek::ModelConfig::from_json(read_file(folder() / "config.json"), "config.json");
  }
  fs::path folder() const { return scratch_ / "model"; }
  fs::path file() const { return packed_cache_path(folder()); }

  std::optional<ServedModel> packed(bool with_mtp = true) {
    const SafetensorsFolder weights(folder());
    return read_packed_cache(machine_.exec, file(), weights, plan_weights(weights, config_, with_mtp));
  }
  ServedModel load(bool keep) {
    const SafetensorsFolder weights(folder());
    return load_weights_or_packed(machine_.exec, weights, plan_weights(weights, config_, true), keep);
  }
  std::vector<float> logits(const ServedModel& served) {
    Engine engine(machine_.exec, served, {});
    const std::vector<int32_t> ids = {3, 1, 4, 1, 5, 9, 2, 6};
    const Tensor rows = engine.logits(engine.append_prompt(ids));
    return {rows.span<float>().begin(), rows.span<float>().end()};
  }
  // The file with the header that `edit` makes of its own, whole and summed, and the same data behind it.
  void change_header(const std::function<std::string(nlohmann::json)>& edit) {
    const std::string before = read_file(file());
    const auto number = [&](size_t at) {
      uint64_t value = 0;
      std::memcpy(&value, before.data() + at, sizeof(value));
      return value;
    };
    const auto header = nlohmann::json::parse(before.substr(24, number(8)));
    const std::string text = edit(header);
    const uint64_t length = text.size(), sum = checksum(std::as_bytes(std::span(text)));
    std::string after = before.substr(0, 8);
    after.append(reinterpret_cast<const char*>(&length), 8).append(reinterpret_cast<const char*>(&sum), 8);
    after += text;
    after.resize((after.size() + 4095) / 4096 * 4096);
    write_file_atomically(file(), after + before.substr(header.at("data").get<size_t>()));
  }
  void spoil(int64_t at) {
    std::fstream stream(file(), std::ios::in | std::ios::out | std::ios::binary);
    stream.seekg(at, at < 0 ? std::ios::end : std::ios::beg);
    const auto place = stream.tellg();
    const char byte = static_cast<char>(stream.get() ^ 1);
    stream.seekp(place);
    stream.put(byte);
  }

  test::ScratchFolder scratch_;
  Machine machine_;
  deepseek::ModelConfig config_;
};

TEST_P(PackedCache, HoldsTheSameBits) {
  EXPECT_FALSE(packed());
  const auto files = [&] { return std::distance(fs::directory_iterator(folder()), {}); };
  const auto before = files();
  const std::vector<float> fresh = logits(load(/*keep=*/true));
  EXPECT_EQ(file(), folder() / ".moray-packed");
  ASSERT_TRUE(packed());
  EXPECT_EQ(logits(*packed()), fresh);
  EXPECT_EQ(logits(load(false)), fresh);
  EXPECT_EQ(files(), before + 1) << "no part is left";
}

TEST_P(PackedCache, WritingTellsHowFarItIs) {
  const SafetensorsFolder weights(folder());
  const WeightPlan plan = plan_weights(weights, config_, true);
  std::vector<size_t> read, written;
  const auto load_again = [&] {
    load_weights_or_packed(
        machine_.exec, weights, plan, /*keep=*/true, [&](size_t done) { read.push_back(done); },
        [&](size_t done) {
          EXPECT_EQ(read.back(), plan.bytes()) << "loading is over";
          written.push_back(done);
        });
  };
  load_again();
  ASSERT_GE(written.size(), plan.tensors.size());
  EXPECT_TRUE(std::ranges::is_sorted(written));
  EXPECT_EQ(written.back(), plan.bytes());
  written.clear();
  load_again();
  EXPECT_TRUE(written.empty()) << "the file was there";
}

TEST_P(PackedCache, IsLeftAsideWhenTheFolderChanged) {
  load(true);
  EXPECT_FALSE(packed(/*with_mtp=*/false) && config_.num_nextn_predict_layers > 0);
  const std::string config = read_file(folder() / "config.json");
  write_file_atomically(folder() / "config.json", config + "\n");
  EXPECT_FALSE(packed());
  write_file_atomically(folder() / "config.json", config);
  EXPECT_TRUE(packed());
  const fs::path shard = SafetensorsFolder(folder()).files().back().path();
  fs::last_write_time(shard, fs::file_time_type::clock::now() + std::chrono::seconds(9));
  EXPECT_FALSE(packed());
  load(true);
  EXPECT_TRUE(packed());
}

TEST_P(PackedCache, IsWrittenAnewWhenDamaged) {
  const std::vector<float> fresh = logits(load(true));
  const auto bytes = static_cast<int64_t>(fs::file_size(file()));
  std::string header = read_file(file()).substr(24);
  header.resize(header.rfind('}', header.find('\0')) + 1);
  const auto data = nlohmann::json::parse(header).at("data").get<int64_t>();
  for (const int64_t at : {int64_t{0}, int64_t{9}, int64_t{17}, int64_t{60}, data}) {
    spoil(at);
    EXPECT_FALSE(packed()) << at;
    EXPECT_EQ(logits(load(true)), fresh);
    EXPECT_TRUE(packed()) << at;
  }
  for (const int64_t size : {int64_t{0}, int64_t{20}, int64_t{3000}, bytes - 1}) {
    fs::resize_file(file(), static_cast<uintmax_t>(size));
    EXPECT_FALSE(packed()) << size;
  }
}

// A header that is good but for blanks at its end, more than the plan's could have: its length is not
// believed.
TEST_P(PackedCache, HeadersAreReadUpToThePlansLength) {
  load(true);
  for (const size_t blanks : {size_t{100}, size_t{200'000}}) {
    change_header([&](nlohmann::json header) {
      const size_t length = header.dump().size() + blanks;
      header["data"] = (24 + length + 16 + 4095) / 4096 * 4096;
      std::string text = header.dump();
      text.resize(length + 16, ' ');
      return text;
    });
    EXPECT_EQ(packed().has_value(), blanks == 100) << blanks;
  }
}

class NeedsRoot : public PackedCache {};

TEST_P(NeedsRoot, PackedFilesAreReadWhenTheirOwnerIsTrusted) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root gives files away";
  load(true);
  const auto give = [](const fs::path& path, uid_t to) {
    ASSERT_EQ(::chown(path.c_str(), to, static_cast<gid_t>(-1)), 0);
  };
  give(file(), 12345);
  testing::internal::CaptureStderr();
  EXPECT_FALSE(packed());
  EXPECT_NE(testing::internal::GetCapturedStderr().find("belongs to another user"), std::string::npos);
  give(folder(), 12345);
  EXPECT_TRUE(packed());
}

// One variable of the environment, put back at the end.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    set(value);
  }
  ~Variable() { set(before_ ? before_->c_str() : nullptr); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  void set(const char* value) {
    if (value != nullptr)
      ::setenv(name_, value, 1);
    else
      ::unsetenv(name_);
  }
  const char* name_;
  std::optional<std::string> before_;
};

// Nobody in particular where the tests are run by root, whom no permission stops.
class CommonUser {
 public:
  CommonUser() {
    if (is_root_) MORAY_CHECK(::seteuid(65534) == 0);
  }
  ~CommonUser() {
    if (is_root_) MORAY_CHECK(::seteuid(0) == 0);
  }
  CommonUser(const CommonUser&) = delete;
  CommonUser& operator=(const CommonUser&) = delete;

 private:
  bool is_root_ = ::geteuid() == 0;
};

class ReadOnlyFolder : public PackedCache {
 protected:
  ReadOnlyFolder() {
    load(/*keep=*/true);
    const fs::path shard = SafetensorsFolder(folder()).files().back().path();
    fs::last_write_time(shard,
                        fs::file_time_type::clock::now() + std::chrono::seconds(9));  // the file is stale
    fs::create_directories(scratch_ / "cache");
    fs::permissions(scratch_.path(), fs::perms(0755));
    fs::permissions(scratch_ / "cache", fs::perms(0777));
    fs::permissions(folder(), fs::perms(0555));
  }
  ~ReadOnlyFolder() override { fs::permissions(folder(), fs::perms(0755)); }
};

TEST_P(ReadOnlyFolder, WithAStaleFileIsKeptInTheUsersCache) {
  const Variable cache("XDG_CACHE_HOME", (scratch_ / "cache").c_str());
  const CommonUser user;
  const fs::path there = file();
  EXPECT_EQ(there.parent_path(), scratch_ / "cache/moray");
  testing::internal::CaptureStderr();
  load(/*keep=*/true);
  const std::string told = testing::internal::GetCapturedStderr();
  EXPECT_NE(told.find(there.string() + ": the packed weights for later starts, 0.00 GB"), std::string::npos)
      << told;
  EXPECT_TRUE(packed());
  testing::internal::CaptureStderr();
  load(/*keep=*/true);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "") << "the file was there";
}

TEST_P(ReadOnlyFolder, WithoutAUsersCacheKeepsNothing) {
  const Variable cache("XDG_CACHE_HOME", nullptr), home("HOME", nullptr);
  const CommonUser user;
  EXPECT_EQ(packed_cache_paths(folder()), std::vector<fs::path>{folder() / ".moray-packed"});
  testing::internal::CaptureStderr();
  load(/*keep=*/true);
  EXPECT_NE(testing::internal::GetCapturedStderr().find("neither XDG_CACHE_HOME nor HOME"),
            std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Folders, NeedsRoot, testing::Values("v2-lite-bf16"));
INSTANTIATE_TEST_SUITE_P(Folders, ReadOnlyFolder, testing::Values("v2-lite-bf16"));
INSTANTIATE_TEST_SUITE_P(Folders, PackedCache, testing::Values("v3-f32", "v3-fp8", "v2-lite-bf16"));

}  // namespace
}  // namespace moray
