#include "models/deepseek/config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/files.h"
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

using json = nlohmann::ordered_json;

json v3_json() {
  return json::parse(read("v3.toml").to_json("bfloat16", 0, 1));
}

ModelConfig of_json(const json& config) {
  return ModelConfig::from_json(config.dump(), "config.json");
}

void expect_refusal(const json& config, const std::string& fragment) {
  try {
    of_json(config);
    ADD_FAILURE() << "not refused: " << fragment;
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(fragment), std::string::npos)
        << error.what() << "; " << fragment;
  }
}

// Keys of other models, and of these by other people: none is ignored where it changes what is computed.
TEST(Config, RefusesArithmeticItDoesNotKnow) {
  constexpr std::pair<const char*, const char*> kKeys[] = {
      {"attention_bias", "true"},   {"mlp_bias", "true"},
      {"rope_interleave", "false"}, {"partial_rotary_factor", "0.5"},
      {"sliding_window", "4096"},   {"final_logit_softcapping", "30.0"},
      {"swiglu_limit", "10.0"},     {"attn_logit_softcapping", "50.0"},
      {"moe_layer_freq", "2"},      {"tie_word_embeddings", "true"},
      {"hidden_act", "\"gelu\""}};
  for (const auto& [key, value] : kKeys) {
    json config = v3_json();
    config[key] = json::parse(value);
    expect_refusal(config, key);
    config[key] = nullptr;
    of_json(config);
  }
  json neutral = v3_json();
  neutral.update({{"mlp_bias", false}, {"partial_rotary_factor", 1.0}, {"rope_interleave", true}});
  of_json(neutral);
}

TEST(Config, RefusesRotationsItDoesNotKnow) {
  const auto with = [](const json& changes) {
    json config = v3_json();
    config["rope_scaling"].update(changes);
    return config;
  };
  expect_refusal(with({{"rope_type", "linear"}}), "'rope_type' is 'linear'");
  expect_refusal(with({{"type", "linear"}}), "'linear'");
  expect_refusal(with({{"attention_factor", 1.2}}), "attention_factor");
  expect_refusal(with({{"truncate", false}}), "truncate");
  expect_refusal(with({{"partial_rotary_factor", 0.5}}), "partial_rotary_factor");
  json untyped = v3_json();
  untyped["rope_scaling"].erase("type");
  expect_refusal(untyped, "'type' is missing");
  for (const json& same :
       {json{{"rope_type", "yarn"}}, json{{"attention_factor", 1.0}, {"truncate", true}},
        json{{"attention_factor", nullptr}, {"truncate", nullptr}, {"partial_rotary_factor", 1.0}}})
    EXPECT_EQ(of_json(with(same)).to_json("bfloat16", 0, 1), v3_json().dump(2) + "\n") << same;
}

// What newer files have in the place of rope_theta and rope_scaling; with a factor or without.
TEST(Config, RopeParameters) {
  const auto with = [](json parameters) {
    json config = v3_json();
    parameters["rope_theta"] = 50000.0;
    config.erase("rope_theta");
    config.erase("rope_scaling");
    config["rope_parameters"] = std::move(parameters);
    return config;
  };
  EXPECT_EQ(of_json(with(v3_json()["rope_scaling"])).rope_scaling->factor, 40);
  for (const json& plain : {json::object(), json{{"rope_type", "default"}}, json{{"type", "default"}}}) {
    EXPECT_FALSE(of_json(with(plain)).rope_scaling) << plain;
    EXPECT_EQ(of_json(with(plain)).rope_theta, 50000) << plain;
  }
  for (const char* type : {"longrope", "dynamic", "linear", "llama3"}) {
    expect_refusal(with({{"rope_type", type}}), type);
    expect_refusal(with({{"rope_type", type}, {"factor", 4.0}}), type);
  }
  expect_refusal(with({{"rope_type", "yarn"}}), "'factor' is missing");
  expect_refusal(with({{"rope_type", "default"}, {"partial_rotary_factor", 0.5}}), "partial_rotary_factor");
}

TEST(Config, ReadsPublishedFiles) {
  int files = 0;
  for (const auto& file : fs::directory_iterator(fs::path(MORAY_SOURCE_DIR) / "tests/published/configs")) {
    EXPECT_NO_THROW(ModelConfig::from_json(read_file(file.path()), file.path())) << file.path();
    ++files;
  }
  EXPECT_EQ(files, 6);
}

}  // namespace
}  // namespace moray::deepseek
