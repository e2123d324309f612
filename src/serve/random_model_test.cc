// Random folders are folders like any other.
#include "serve/random_model.h"

#include <gtest/gtest.h>

#include <cmath>

#include "backend/register.h"
#include "base/test_help.h"
#include "checkpoint/safetensors_writer.h"
#include "serve/engine.h"
#include "serve/serving_need.h"

namespace moray {
namespace {

struct Machine {
  explicit Machine(int threads) : pool(threads) { register_backends(); }
  Allocator allocator;
  ThreadPool pool;
  Exec exec{Device::cpu, &pool, &allocator, DType::f32};
};

deepseek::ModelConfig small_config() {
  const fs::path golden = fs::path(MORAY_SOURCE_DIR) / "tests/golden/inference/v3-f32/config.json";
  auto config = deepseek::ModelConfig::from_json(read_file(golden), "config.json");
  config.hidden_size = 160;
  config.moe_intermediate_size = 96;
  return config;
}

double deviation(const Tensor& logits) {
  double sum = 0;
  for (float x : logits.span<float>()) sum += static_cast<double>(x) * static_cast<double>(x);
  return std::sqrt(sum / static_cast<double>(logits.elements()));
}

class RandomModel : public testing::TestWithParam<DType> {};

TEST_P(RandomModel, FoldersAreServed) {
  Machine machine(2), other(1);
  const test::ScratchFolder scratch;
  write_random_folder(machine.exec, small_config(), GetParam(), scratch / "model", 300'000);
  write_random_folder(other.exec, small_config(), GetParam(), scratch / "same", 300'000);
  for (const fs::directory_entry& entry : fs::directory_iterator(scratch / "model"))
    EXPECT_EQ(read_file(entry.path()), read_file(scratch / "same" / entry.path().filename())) << entry.path();
  const SafetensorsFolder weights(scratch / "model");
  EXPECT_GT(weights.files().size(), 1u);
  const auto config =
      deepseek::ModelConfig::from_json(read_file(scratch / "model/config.json"), "config.json");
  const std::vector<int32_t> ids = {1, 2, 3, 4};
  const ServedModel from_folder = load_weights(machine.exec, weights, plan_weights(weights, config, true));
  const ServedModel in_memory = random_model(machine.exec, small_config(), GetParam());
  for (const ServedModel* served : {&from_folder, &in_memory}) {
    Engine engine(machine.exec, *served, {});
    const double size = deviation(engine.logits(engine.append_prompt(ids)));  // of normed states: about 1
    EXPECT_GT(size, 0.5);
    EXPECT_LT(size, 2);
  }
  EXPECT_THROW(write_random_folder(machine.exec, small_config(), GetParam(), scratch / "model", 300'000),
               Error);
}

TEST(RandomFolder, WhatTheDiskLacksRoomForIsRefusedBefore) {
  Machine machine(1);
  const test::ScratchFolder scratch;
  deepseek::ModelConfig config = small_config();
  config.vocab_size = int64_t{1} << 46;
  const std::string error = test::error_of(
      [&] { write_random_folder(machine.exec, config, DType::bf16, scratch / "model", kDefaultShardBytes); });
  EXPECT_NE(error.find("GB are to come, but the disk has room for"), std::string::npos) << error;
  EXPECT_FALSE(fs::exists(scratch / "model"));
}

TEST(RandomFolder, ProgressKnowsItsEnd) {
  Machine machine(1);
  const test::ScratchFolder scratch;
  uint64_t last = 0, of = 0;
  write_random_folder(machine.exec, small_config(), DType::i8, scratch / "model", kDefaultShardBytes,
                      [&](uint64_t done, uint64_t total) {
                        EXPECT_LT(last, done);
                        EXPECT_LE(done, total);
                        last = done, of = total;
                      });
  EXPECT_EQ(last, of);
  EXPECT_LT(of, fs::file_size(scratch / "model/model.safetensors"));
}

// What inspect says beforehand is what there is to load.
TEST(RandomFolder, TakesTheMemoryThatIsCounted) {
  Machine machine(2);
  const std::pair<DType, WeightForm> forms[] = {{DType::bf16, WeightForm::bf16},
                                                {DType::f8_e4m3, WeightForm::fp8},
                                                {DType::i8, WeightForm::int8},
                                                {DType::u8, WeightForm::int4}};
  for (const auto& [dtype, form] : forms) {
    const test::ScratchFolder scratch;
    write_random_folder(machine.exec, small_config(), dtype, scratch / "model", kDefaultShardBytes);
    const SafetensorsFolder folder(scratch / "model");
    EXPECT_EQ(plan_weights(folder, small_config(), false).bytes(), weight_bytes(small_config(), form))
        << weight_form_name(form);
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, RandomModel,
                         testing::Values(DType::f32, DType::bf16, DType::f8_e4m3, DType::i8, DType::u8));

}  // namespace
}  // namespace moray
