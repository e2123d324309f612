// The packed file: the same weights to the bit, or nothing.
#include "serve/packed_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
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

INSTANTIATE_TEST_SUITE_P(Folders, PackedCache, testing::Values("v3-f32", "v3-fp8", "v2-lite-bf16"));

}  // namespace
}  // namespace moray
