// What is wrong with a folder is named before anything is read.
#include "serve/weight_plan.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>

#include "base/test_help.h"
#include "serve/serving_need.h"

namespace moray {
namespace {

const fs::path kGolden = fs::path(MORAY_SOURCE_DIR) / "tests/golden/inference/v3-fp8";

// The header of the golden file changed by `edit`, over the same data.
class Folder {
 public:
  explicit Folder(const std::function<void(nlohmann::ordered_json&)>& edit) {
    const std::string file = read_file(kGolden / "model.safetensors");
    uint64_t size = 0;
    std::memcpy(&size, file.data(), sizeof(size));
    auto header = nlohmann::ordered_json::parse(file.substr(8, size));
    edit(header);
    const std::string text = header.dump();
    const uint64_t length = text.size();
    std::string changed(reinterpret_cast<const char*>(&length), sizeof(length));
    write_file_atomically(folder_ / "model.safetensors", changed + text + file.substr(8 + size));
  }
  std::string refusal() const {
    try {
      const SafetensorsFolder weights(folder_.path());
      plan_weights(weights, deepseek::ModelConfig::from_json(read_file(kGolden / "config.json"), "config"),
                   true);
    } catch (const Error& error) {
      return error.what();
    }
    return "accepted";
  }

 private:
  test::ScratchFolder folder_;
};

void rename(nlohmann::ordered_json& header, const std::string& from, const std::string& to) {
  header[to] = header.at(from);
  header.erase(from);
}

TEST(WeightPlan, NamesWhatDoesNotFit) {
  EXPECT_EQ(Folder([](auto&) {}).refusal(), "accepted");
  const std::string norm = "model.norm.weight", expert = "model.layers.1.mlp.experts.3.up_proj.weight";
  const std::string missing = Folder([&](auto& h) { rename(h, norm, "model.spare.weight"); }).refusal();
  EXPECT_NE(missing.find("'model.norm.weight' is missing"), std::string::npos) << missing;
  EXPECT_NE(missing.find("'model.spare.weight' belongs to no part"), std::string::npos) << missing;
  const std::string shape = Folder([&](auto& h) { h[norm]["shape"] = {2, 18}; }).refusal();
  EXPECT_NE(shape.find("'model.norm.weight' is [2, 18], expected [36]"), std::string::npos) << shape;
  const std::string type = Folder([&](auto& h) { h[expert]["dtype"] = "I8"; }).refusal();
  EXPECT_NE(type.find(expert + "' is I8"), std::string::npos) << type;
  const std::string scale =
      Folder([&](auto& h) { rename(h, expert + "_scale_inv", "model.layers.1.x"); }).refusal();
  EXPECT_NE(scale.find(expert + "_scale_inv' is missing"), std::string::npos) << scale;
  const std::string layer =
      Folder([&](auto& h) { rename(h, expert, "model.layers.9.mlp.experts.3.up_proj.weight"); }).refusal();
  EXPECT_NE(layer.find(expert + "' is missing"), std::string::npos) << layer;
}

deepseek::ModelConfig golden_config() {
  return deepseek::ModelConfig::from_json(read_file(kGolden / "config.json"), "config");
}

TEST(WeightPlan, NamesOfAnIndexAreComparedBeforeAnyShardComes) {
  const auto refusal = [](const std::function<void(std::set<std::string>&)>& edit, const auto& config) {
    const SafetensorsFile file(kGolden / "model.safetensors");
    std::set<std::string> names;
    for (const StoredTensor& tensor : file.tensors()) names.insert(tensor.name);
    edit(names);
    return test::error_of([&] { expect_tensor_names(names, config, "index"); });
  };
  const deepseek::ModelConfig config = golden_config();
  const std::string expert = "model.layers.1.mlp.experts.3.up_proj.weight",
                    says = "index: the tensors do not fit config.json: ";
  EXPECT_EQ(refusal([](auto&) {}, config), "no error");
  EXPECT_EQ(refusal([&](auto& names) { names.erase(expert); }, config), says + "'" + expert + "' is missing");
  for (const char* foreign :
       {"model.layers.1.mlp.experts.03.up_proj.weight", "model.layers.1.mlp.experts.99.up_proj.weight",
        "model.layers.1.mlp.experts.{}.up_proj.weight", "model.layers.1.mlp.experts.", "spare"})
    EXPECT_EQ(refusal([&](auto& names) { names.insert(foreign); }, config),
              says + "'" + foreign + "' belongs to no part of the model");
  // Without MTP modules it can be served; a config that speaks of billions of experts is soon known.
  const std::string mtp = fmt::format("model.layers.{}.", config.num_hidden_layers);
  EXPECT_EQ(
      refusal([&](auto& names) { std::erase_if(names, [&](auto& name) { return name.starts_with(mtp); }); },
              config),
      "no error");
  deepseek::ModelConfig huge = config;
  huge.n_routed_experts = 1'000'000'000;
  const std::string message = refusal([](auto&) {}, huge);
  EXPECT_NE(message.find("' is missing; and more"), std::string::npos) << message;
}

TEST(WeightPlan, TensorsOfAShardAreCompared) {
  const SafetensorsFile file(kGolden / "model.safetensors");
  const auto refusal = [&](const auto& config) {
    return test::error_of([&] { expect_tensors_of_model(file, config); });
  };
  deepseek::ModelConfig config = golden_config();
  EXPECT_EQ(refusal(config), "no error");
  config.hidden_size += 4;
  EXPECT_NE(refusal(config).find("is [36], expected [40]"), std::string::npos) << refusal(config);
  config = golden_config();
  config.n_routed_experts = 8;
  EXPECT_NE(refusal(config).find("mlp.experts.10.down_proj.weight_scale_inv' belongs to no part"),
            std::string::npos)
      << refusal(config);
}

TEST(WeightPlan, MemoryIsComparedBeforeLoading) {
  const WeightPlan plan =
      plan_weights(SafetensorsFolder(kGolden),
                   deepseek::ModelConfig::from_json(read_file(kGolden / "config.json"), "config"), false);
  EXPECT_NO_THROW(expect_memory(plan.config, {plan.bytes(), 700, 300}, plan.bytes() + 1000));
  EXPECT_THROW(expect_memory(plan.config, {plan.bytes(), 700, 301}, plan.bytes() + 1000), Error);
  const auto refusal = [&](size_t rest, size_t available) {
    return test::error_of([&] { expect_memory(plan.config, {plan.bytes(), rest, 0}, available); });
  };
  EXPECT_NE(refusal(1001, plan.bytes() + 1000).find("shorter --context"), std::string::npos);
  EXPECT_NE(refusal(0, plan.bytes() - 1).find("in 4-bit"), std::string::npos) << refusal(0, plan.bytes() - 1);
  EXPECT_EQ(refusal(0, plan.bytes() - 1).find("FP8"), std::string::npos)
      << "nothing makes FP8 of other weights";
  EXPECT_NE(refusal(plan.bytes() + 1, plan.bytes() + 1).find("shorter --context"), std::string::npos)
      << "the cache is what does not fit";
  EXPECT_NE(refusal(0, 1000).find("not fit in 4-bit either"), std::string::npos);
  EXPECT_GT(available_memory_bytes(), 1u << 20);
}

}  // namespace
}  // namespace moray
