#include "models/deepseek/config.h"

#include <gtest/gtest.h>

#include "models/deepseek/model.h"

namespace moray::deepseek {
namespace {

ModelConfig read(const char* name) {
  Config recipe = Config::read(fs::path(MORAY_SOURCE_DIR) / "recipes" / name);
  return ModelConfig::from_recipe(recipe);
}

// Facts §1: 671B parameters, 37B active (36.62B multiplied per token with the head; 37.55B with the
// embedding), the MTP module adds 11.5B (published in round numbers: its tensors add up to 11.61B).
TEST(ParameterCounts, OfV3) {
  const ParameterCounts counts = count_parameters(read("v3.toml"));
  EXPECT_NEAR(static_cast<double>(counts.total) / 1e9, 671.0, 0.1);
  EXPECT_NEAR(static_cast<double>(counts.active_matmul) / 1e9, 36.62, 0.01);
  EXPECT_NEAR(static_cast<double>(counts.active) / 1e9, 37.55, 0.01);
  EXPECT_NEAR(static_cast<double>(counts.mtp) / 1e9, 11.61, 0.005);
}

// Facts §1: 15.7B parameters, 2.4B active (without the embedding).
TEST(ParameterCounts, OfV2Lite) {
  const ParameterCounts counts = count_parameters(read("v2-lite.toml"));
  EXPECT_NEAR(static_cast<double>(counts.total) / 1e9, 15.7, 0.05);
  EXPECT_NEAR(static_cast<double>(counts.active_matmul) / 1e9, 2.4, 0.06);
}

TEST(ParameterCounts, EqualTheTensors) {
  for (const char* name : {"tiny.toml", "small.toml"}) {
    const ModelConfig config = read(name);
    Allocator allocator;
    ThreadPool pool(1);
    const Exec exec{Device::reference, &pool, &allocator, DType::f32};
    Model model = allocate_model(exec, config);
    int64_t elements = 0;
    for (const NamedWeight& weight : named_weights(model)) elements += weight.tensor.elements();
    const ParameterCounts counts = count_parameters(config);
    EXPECT_EQ(elements, counts.total + counts.mtp) << name;
  }
}

// serving §1: 192^-1/2 · (0.1 · mscale_all_dim · ln 40 + 1)²
TEST(SoftmaxScale, OfThePublishedModels) {
  EXPECT_NEAR(read("v3.toml").mla().softmax_scale, 0.1352338, 1e-7);
  EXPECT_NEAR(read("v2-lite.toml").mla().softmax_scale, 0.1147214, 1e-7);
  EXPECT_NEAR(mla_softmax_scale(192, YarnConfig{.factor = 64, .mscale_all_dim = 1}), 0.1446796, 1e-7);
  EXPECT_NEAR(mla_softmax_scale(192, std::nullopt), 0.0721688, 1e-7);
}

TEST(Config, JsonRoundTrip) {
  for (const char* name : {"v3.toml", "v2-lite.toml"}) {
    const ModelConfig config = read(name);
    const std::string json = config.to_json("bfloat16", 0, 1);
    EXPECT_EQ(ModelConfig::from_json(json, "config.json").to_json("bfloat16", 0, 1), json) << name;
  }
}

TEST(Config, RefusesWhatCannotBe) {
  const std::string good = read("v3.toml").to_json("bfloat16", 0, 1);
  const auto refuse = [&](const std::string& from, const std::string& to) {
    std::string bad = good;
    ASSERT_NE(bad.find(from), std::string::npos) << from;
    bad.replace(bad.find(from), from.size(), to);
    EXPECT_THROW(ModelConfig::from_json(bad, "config.json"), Error) << to;
  };
  refuse("\"n_group\": 8", "\"n_group\": 7");
  refuse("\"hidden_size\": 7168", "\"hidden_size\": -1");
  refuse("\"hidden_size\": 7168", "\"hidden_size\": 1e400");
  refuse("\"hidden_size\": 7168", "\"hidden_size\": 71680000000000");
  refuse("\"qk_rope_head_dim\": 64", "\"qk_rope_head_dim\": 63");
  refuse("\"num_experts_per_tok\": 8", "\"num_experts_per_tok\": 129");
  refuse("\"scoring_func\": \"sigmoid\"", "\"scoring_func\": \"tanh\"");
  refuse("\"model_type\": \"deepseek_v3\"", "\"model_type\": \"llama\"");
  refuse("\"type\": \"yarn\"", "\"type\": \"linear\"");
  refuse("\"vocab_size\": 129280", "\"vocab_size\": \"many\"");
  EXPECT_THROW(ModelConfig::from_json("{", "config.json"), Error);
  EXPECT_THROW(ModelConfig::from_json("[]", "config.json"), Error);
}

}  // namespace
}  // namespace moray::deepseek
