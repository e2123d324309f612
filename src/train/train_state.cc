#include "train/train_state.h"

#include <nlohmann/json.hpp>

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
  for (const deepseek::NamedWeight& weight : deepseek::named_weights(trainer.model())) {
    NamedTensor named{weight.name, weight.tensor};
    if (weight.kind != ParameterKind::buffer) named.stored_as = options.model_dtype;
    content.model.push_back(named);
  }
  content.config_json = trainer.model().config.to_json(narrowed ? "bfloat16" : "float32",
                                                       options.bos_token_id, options.eos_token_id);
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
