#include "train/model_folder.h"

#include <set>

#include "checkpoint/fp8_weights.h"
#include "checkpoint/int_weights.h"

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
  const std::string text = read_file(path);
  // Refuses other quantizations before anything is read.
  if (!read_int_format(text, path.string())) read_fp8_scheme(text, path.string());
  return deepseek::ModelConfig::from_json(text, path.string());
}

void read_weights(const SafetensorsFolder& weights, deepseek::Model& model) {
  std::set<std::string> expected;
  for (const deepseek::NamedWeight& weight : deepseek::named_weights(model)) {
    expected.insert(weight.name);
    read_dequantized(weights, weight.name, weight.tensor);
  }
  expect_no_stray_scales(weights);
  for (const std::string& name : weights.names())
    if (!expected.contains(name) && !is_fp8_scale_name(name) && !is_known_extra(name))
      fail("{}: tensor '{}' does not belong to this model's config.json", weights.path().string(), name);
}

deepseek::Model load_model(const Exec& exec, const fs::path& folder) {
  deepseek::Model model = deepseek::allocate_model(exec, read_model_config(folder));
  read_weights(SafetensorsFolder(folder), model);
  return model;
}

}  // namespace moray
