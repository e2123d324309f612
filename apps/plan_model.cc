#include "apps/plan_model.h"

#include "base/config.h"
#include "base/files.h"

namespace moray {

deepseek::ModelConfig read_plan_model(const std::string& path) {
  const fs::path file = fs::is_directory(path) ? fs::path(path) / "config.json" : fs::path(path);
  if (file.extension() == ".json") return deepseek::ModelConfig::from_json(read_file(file), file.string());
  Config recipe = Config::read(file);
  return deepseek::ModelConfig::from_recipe(recipe);
}

}  // namespace moray
