// Training against an independent implementation: 200 steps in PyTorch with Hugging Face's attention and
// router (tests/golden/train/), same initial weights, same batches.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "backend/register.h"
#include "train/model_folder.h"
#include "train/trainer.h"

namespace moray {
namespace {

using Json = nlohmann::json;

struct Golden {
  fs::path folder;
  Json expected;
  std::string batches;

  explicit Golden(const std::string& name)
      : folder(fs::path(MORAY_SOURCE_DIR) / "tests/golden/train" / name) {
    expected = Json::parse(read_file(folder / "expected.json"));
    batches = read_file(folder / "batches.bin");
  }
  int64_t hyper(const char* key) const { return expected["hyper"][key].get<int64_t>(); }
  double number(const char* key) const { return expected["hyper"][key].get<double>(); }

  TrainConfig config() const {
    TrainConfig train;
    train.sequence_length = hyper("sequence_length");
    const int64_t batch_tokens = hyper("batch_size") * train.sequence_length;
    train.tokens = hyper("steps") * batch_tokens;
    train.batch_size = Schedule(static_cast<double>(hyper("batch_size")));
    train.micro_batch = 3;  // does not divide the batch: nothing may depend on it
    train.learning_rate = Schedule(
        0, {{hyper("warmup_steps") * batch_tokens, PhaseShape::linear, number("peak_learning_rate")}});
    train.mtp_loss_weight = Schedule(number("mtp_weight"));
    train.balance_loss_alpha = number("balance_alpha");
    train.balance_bias_update_speed = Schedule(number("bias_gamma"));
    train.optimizer = {number("adam_beta1"), number("adam_beta2"), number("adam_eps"), number("weight_decay"),
                       number("clip_norm")};
    return train;
  }

  void sample(uint64_t n, std::span<int32_t> tokens, std::span<int32_t> starts) const {
    const auto* from = reinterpret_cast<const uint8_t*>(batches.data()) + 2 * n * tokens.size();
    for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = from[2 * i] | from[2 * i + 1] << 8;
    std::fill(starts.begin(), starts.end(), 0);
  }
};

class GoldenTraining : public testing::TestWithParam<std::tuple<std::string, Device>> {
 protected:
  static void SetUpTestSuite() { register_backends(); }
};

TEST_P(GoldenTraining, FollowsPyTorch) {
  const auto& [name, device] = GetParam();
  const Golden golden(name);
  Allocator allocator;
  ThreadPool pool(2);
  Exec exec{device, &pool, &allocator, DType::f32};
  const TrainConfig config = golden.config();
  Trainer trainer(exec, read_model_config(golden.folder), config);
  read_weights(SafetensorsFolder(golden.folder), trainer.model());

  // The scalar kernels follow the first steps only: they are slow, and the fast ones are held to them
  // elsewhere.
  const int64_t steps = device == Device::reference ? 3 : golden.hyper("steps");
  const SampleSource source = [&](uint64_t n, std::span<int32_t> tokens, std::span<int32_t> starts) {
    golden.sample(n, tokens, starts);
  };
  double worst_early = 0, worst = 0;
  for (int64_t step = 0; step < steps; ++step) {
    const StepResult result = trainer.step(source);
    const auto at = static_cast<size_t>(step);
    const double expected = golden.expected["main_loss"][at].get<double>();
    const double error = std::abs(result.loss - expected) / expected;
    worst = std::max(worst, error);
    if (step < 20) worst_early = std::max(worst_early, error);
    if (step < 20) {
      EXPECT_NEAR(result.grad_norm, golden.expected["grad_norm"][at].get<double>(), 1e-3 * result.grad_norm);
      EXPECT_NEAR(result.balance_loss * config.balance_loss_alpha,
                  golden.expected["balance_loss"][at].get<double>(), 1e-4 * result.balance_loss);
      if (!result.mtp_loss.empty()) {
        EXPECT_NEAR(result.mtp_loss[0], golden.expected["mtp_loss"][at].get<double>(),
                    1e-4 * result.mtp_loss[0]);
      }
    }
    if (step == 0) {
      size_t layer = 0;
      for (const auto& [layer_name, load] : golden.expected["step0_expert_load"].items())
        EXPECT_EQ(result.expert_load[layer++], load.get<std::vector<int64_t>>()) << "layer " << layer_name;
    }
  }
  RecordProperty("worst_relative_error_first_20_steps", std::to_string(worst_early));
  std::printf("%s on %s: worst relative loss error %.2e in the first 20 steps, %.2e in %lld\n", name.c_str(),
              device_name(device), worst_early, worst, static_cast<long long>(steps));
  // The promise is 1e-4 and 0.5%; the first limit is tighter because a wrong decay, clip or eps moves the
  // loss by as little as 1e-5 in 20 steps.
  EXPECT_LT(worst_early, 5e-6);
  EXPECT_LT(worst, 5e-3);
}

INSTANTIATE_TEST_SUITE_P(All, GoldenTraining,
                         testing::Combine(testing::Values("v3", "v2"),
                                          testing::Values(Device::reference, Device::cpu)));

}  // namespace
}  // namespace moray
