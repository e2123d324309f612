#include "train/model_folder.h"

#include <set>

namespace moray {

namespace {
bool is_known_extra(const std::string& name) {
  for (const char* ending : {"rotary_emb.inv_freq", "shared_head.head.weight", ".embed_tokens.weight"})
    if (name.ends_with(ending)) return true;
  return false;
}
}  // namespace

deepseek::ModelConfig read_model_config(const fs::path& folder) {
  const fs::path path = folder / "config.json";
  return deepseek::ModelConfig::from_json(read_file(path), path.string());
}

void read_weights(const SafetensorsFolder& weights, deepseek::Model& model) {
  std::set<std::string> expected;
  for (const deepseek::NamedWeight& weight : deepseek::named_weights(model)) {
    expected.insert(weight.name);
    weights.read(weight.name, weight.tensor);
  }
  for (const std::string& name : weights.names())
    if (!expected.contains(name) && !is_known_extra(name))
      fail("{}: tensor '{}' does not belong to this model's config.json", weights.path().string(), name);
}

deepseek::Model load_model(const Exec& exec, const fs::path& folder) {
  deepseek::Model model = deepseek::allocate_model(exec, read_model_config(folder));
  read_weights(SafetensorsFolder(folder), model);
  return model;
}

}  // namespace moray
