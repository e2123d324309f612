#include "train/train_state.h"

#include <nlohmann/json.hpp>

#include "checkpoint/fp8_weights.h"
#include "ops/quantize.h"
#include "train/model_folder.h"

namespace moray {

namespace {

using Json = nlohmann::ordered_json;
constexpr int kFormat = 1;

std::vector<NamedTensor> named_tensors(deepseek::Model& tree) {
  std::vector<NamedTensor> tensors;
  for (const deepseek::NamedWeight& weight : deepseek::named_weights(tree))
    if (weight.kind != ParameterKind::buffer || weight.tensor.defined())
      tensors.push_back({weight.name, weight.tensor});
  return tensors;
}

void read_tree(const SafetensorsFile& file, deepseek::Model& tree) {
  for (const NamedTensor& named : named_tensors(tree)) file.read(named.name, named.tensor);
}

// Appends a weight as model/ holds it: the balance bias in FP32, the published folders' FP8 weights as codes
// and scales, everything else as `options.model_dtype`, or BF16 in a folder of FP8.
void append_weight(Exec& exec, const deepseek::NamedWeight& weight, const SaveOptions& options,
                   std::vector<NamedTensor>& model) {
  const bool fp8 = options.model_dtype == DType::f8_e4m3;
  if (!fp8 || !is_fp8_in_published_folders(weight.name)) {
    model.push_back({weight.name, weight.tensor});
    if (weight.kind != ParameterKind::buffer)
      model.back().stored_as = fp8 ? DType::bf16 : options.model_dtype;
    return;
  }
  const auto q = QuantizedTensor::empty(*exec.allocator, weight.tensor.shape(), CodeFormat::f8_e4m3,
                                        Tiling::blocks, options.model_scales);
  if (const NonFinite found = quantize(exec, weight.tensor, q); found.any())
    fail("{}: {} NaNs and {} infinities; not to be saved as FP8", weight.name, found.nans, found.infinities);
  model.push_back({weight.name, q.codes});
  model.push_back({fp8_scale_name(weight.name), q.scales});
}

std::string trainer_json(Trainer& trainer, const std::string& recipe_toml) {
  const Counters& counters = trainer.counters();
  Json json;
  json["format"] = kFormat;
  json["step"] = counters.step;
  json["tokens"] = counters.tokens;
  json["next_sample"] = counters.samples;
  json["skipped_steps"] = counters.skipped_steps;
  json["bad_in_a_row"] = counters.bad_in_a_row;
  json["optimizer_steps"] = trainer.optimizer().steps();
  json["seed"] = trainer.config().seed;  // with next_sample, all the random state there is
  json["recipe"] = recipe_toml;
  return json.dump(2) + "\n";
}

}  // namespace

CheckpointContent training_content(Trainer& trainer, const SaveOptions& options) {
  CheckpointContent content;
  const bool narrowed = options.model_dtype != DType::f32;
  for (const deepseek::NamedWeight& weight : deepseek::named_weights(trainer.model()))
    append_weight(trainer.exec(), weight, options, content.model);
  content.config_json = trainer.model().config.to_json(narrowed ? "bfloat16" : "float32",
                                                       options.bos_token_id, options.eos_token_id);
  if (options.model_dtype == DType::f8_e4m3)
    content.config_json = with_fp8_scheme(content.config_json, {options.model_scales});
  content.copied_files = options.tokenizer_files;
  if (narrowed) content.state.push_back({"master", named_tensors(trainer.model())});
  content.state.push_back({"first_moments", named_tensors(trainer.optimizer().first_moments())});
  content.state.push_back({"second_moments", named_tensors(trainer.optimizer().second_moments())});
  if (deepseek::Model* average = trainer.average()) content.state.push_back({"ema", named_tensors(*average)});
  content.trainer_json = trainer_json(trainer, options.recipe_toml);
  return content;
}

void restore_training(Trainer& trainer, const Checkpoint& checkpoint) {
  if (checkpoint.has_state("master"))
    read_tree(checkpoint.state("master"), trainer.model());
  else
    read_weights(checkpoint.model(), trainer.model());
  trainer.refresh_compute_model();
  read_tree(checkpoint.state("first_moments"), trainer.optimizer().first_moments());
  read_tree(checkpoint.state("second_moments"), trainer.optimizer().second_moments());
  if (deepseek::Model* average = trainer.average()) {
    if (checkpoint.has_state("ema"))
      read_tree(checkpoint.state("ema"), *average);
    else
      trainer.restart_average();
  }
  try {
    const Json json = Json::parse(checkpoint.trainer_json());
    Counters& counters = trainer.counters();
    counters.step = json.at("step").get<int64_t>();
    counters.tokens = json.at("tokens").get<int64_t>();
    counters.samples = json.at("next_sample").get<int64_t>();
    counters.skipped_steps = json.at("skipped_steps").get<int64_t>();
    counters.bad_in_a_row = json.at("bad_in_a_row").get<int64_t>();
    trainer.optimizer().set_steps(json.at("optimizer_steps").get<int64_t>());
    if (const auto seed = json.at("seed").get<uint64_t>(); seed != trainer.config().seed)
      fail("{}: was trained with seed {}, the recipe says {}", checkpoint.path().string(), seed,
           trainer.config().seed);
  } catch (const Json::exception& error) {
    fail("{}/state/trainer.json: {}", checkpoint.path().string(), error.what());
  }
}

}  // namespace moray
