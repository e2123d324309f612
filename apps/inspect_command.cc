#include "apps/inspect_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "apps/inspect_serving.h"
#include "apps/model_argument.h"
#include "apps/output.h"
#include "base/utf8.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/int_weights.h"
#include "data/dataset.h"
#include "models/deepseek/activation_memory.h"
#include "report/progress.h"
#include "train/model_folder.h"
#include "train/recipe.h"

namespace moray {

namespace {

using Json = nlohmann::ordered_json;

Json model_summary(const deepseek::ModelConfig& model) {
  const deepseek::ParameterCounts counts = deepseek::count_parameters(model);
  return {{"family", model.is_v3() ? "V3" : "V2"},
          {"layers", model.num_hidden_layers},
          {"hidden_size", model.hidden_size},
          {"attention_heads", model.num_attention_heads},
          {"routed_experts", model.n_routed_experts},
          {"experts_per_token", model.num_experts_per_tok},
          {"shared_experts", model.n_shared_experts},
          {"vocabulary", model.vocab_size},
          {"positions", model.max_position_embeddings},
          {"mtp_depths", model.num_nextn_predict_layers},
          {"parameters", counts.total},
          {"parameters_active", counts.active},
          {"parameters_active_matmul", counts.active_matmul},
          {"parameters_mtp", counts.mtp}};
}

Json stored_summary(const std::vector<const SafetensorsFile*>& files, bool tensors) {
  Json by_dtype = Json::object(), list = Json::array();
  uint64_t bytes = 0;
  int64_t count = 0;
  for (const SafetensorsFile* file : files)
    for (const StoredTensor& tensor : file->tensors()) {
      ++count;
      bytes += tensor.bytes();
      Json& entry = by_dtype[tensor.dtype];
      if (entry.is_null()) entry = {{"tensors", 0}, {"elements", 0}};
      entry["tensors"] = entry["tensors"].get<int64_t>() + 1;
      entry["elements"] = entry["elements"].get<int64_t>() + tensor.elements();
      if (tensors) list.push_back({{"name", tensor.name}, {"dtype", tensor.dtype}, {"shape", tensor.shape}});
    }
  Json summary{{"files", files.size()}, {"tensors", count}, {"bytes", bytes}, {"by_dtype", by_dtype}};
  if (tensors) summary["list"] = list;
  return summary;
}

// A model that cannot be served has its tensors shown all the same, and "refused" says why.
Json inspect_model_folder(const fs::path& folder, bool tensors) {
  Json summary{{"kind", "model"}, {"folder", folder.string()}};
  const SafetensorsFolder weights(folder);
  std::vector<const SafetensorsFile*> files;
  for (const SafetensorsFile& file : weights.files()) files.push_back(&file);
  try {
    const deepseek::ModelConfig config = read_model_config(folder);
    summary["model"] = model_summary(config);
    summary["weights"] = stored_summary(files, tensors);
    const fs::path path = folder / "config.json";
    summary["serving"] =
        serving_summary(config, &weights, read_int_format(read_file(path), path.string()).has_value());
    if (summary["serving"].contains("refused")) summary["refused"] = summary["serving"]["refused"];
  } catch (const Error& error) {
    summary["weights"] = stored_summary(files, tensors);
    summary["refused"] = error.what();
  }
  return summary;
}

// A config.json alone tells what a model would need, before gigabytes of weights are fetched.
Json inspect_config(const fs::path& path) {
  const deepseek::ModelConfig config = deepseek::ModelConfig::from_json(read_file(path), path.string());
  return {{"kind", "config"},
          {"file", path.string()},
          {"model", model_summary(config)},
          {"serving", serving_summary(config)}};
}

bool holds_weights(const fs::path& folder) {
  return std::ranges::any_of(fs::directory_iterator(folder), [](const fs::directory_entry& entry) {
    return entry.path().filename().string().find(".safetensors") != std::string::npos;
  });
}

// Bytes a token by kind, and their sum.
Json kept_summary(const deepseek::KeptItems& items, int64_t tokens) {
  Json summary = Json::object();
  const auto per_token = [&](int64_t bytes) {
    return std::round(static_cast<double>(bytes) / static_cast<double>(tokens) * 100) / 100;
  };
  for (const deepseek::KeptItem& item : items) summary[item.kind] = per_token(item.bytes);
  summary["together"] = per_token(deepseek::total_bytes(items));
  return summary;
}

// What the backward pass needs of one micro-batch, in the recipe's precision and beside it in plain BF16.
Json memory_summary(const Recipe& recipe) {
  const deepseek::ModelConfig& model = recipe.model;
  const SampleRows rows{.samples = recipe.train.micro_batch, .rows_per_sample = recipe.train.sequence_length};
  const int64_t dense = std::min(model.first_k_dense_replace, model.num_hidden_layers),
                moe = model.num_hidden_layers - dense, depths = model.num_nextn_predict_layers;
  const Precision& precision = recipe.train.precision;
  Json summary{{"micro_batch_tokens", rows.rows()}};
  Json& layers = summary["bytes_a_token"];
  if (dense > 0)
    layers["dense layer"] = kept_summary(kept_by_block(model, false, precision, rows), rows.rows());
  if (moe + depths > 0)
    layers["MoE layer"] = kept_summary(kept_by_block(model, true, precision, rows), rows.rows());
  if (depths > 0)
    layers["MTP depth beside its MoE layer"] = kept_summary(kept_by_mtp(model, precision, rows), rows.rows());
  layers["final norm and head"] = kept_summary(kept_by_head(model, precision, rows), rows.rows());
  const int64_t bytes = kept_by_model(model, precision, rows),
                bf16_bytes = kept_by_model(model, {.kind = PrecisionKind::bf16}, rows);
  summary["all_bytes"] = bytes;
  summary["all_bytes_in_bf16"] = bf16_bytes;
  summary["share_of_bf16"] = static_cast<double>(bytes) / static_cast<double>(bf16_bytes);
  return summary;
}

Json inspect_recipe(const fs::path& path, bool memory) {
  Config config = Config::read(path);
  if (config.has("plan.model") || config.has("layout.pipeline"))
    fail("{0}: is a plan, which is read by: moray plan {0} --cluster CLUSTER.toml", path.string());
  if (config.has("prefill.gpus") || config.has("decode.gpus"))
    fail("{0}: is a plan of serving, which is read by: moray plan serve {0}", path.string());
  const Recipe recipe = Recipe::from_config(config);
  Json summary{{"kind", "recipe"}, {"file", path.string()}};
  summary["model"] = model_summary(recipe.model);
  summary["training"] = {{"tokens", recipe.train.tokens},
                         {"sequence_length", recipe.train.sequence_length},
                         {"first_batch_size", recipe.train.batch_size.at(0)},
                         {"greatest_batch_size", recipe.train.batch_size.greatest()},
                         {"greatest_learning_rate", recipe.train.learning_rate.greatest()},
                         {"gradient_groups", recipe.train.gradient_groups}};
  summary["serving"] = serving_summary(recipe.model);
  if (memory) summary["kept_activations"] = memory_summary(recipe);
  return summary;
}

Json inspect_dataset(const fs::path& folder) {
  const Dataset dataset = Dataset::open(folder);
  Json summary{{"kind", "dataset"}, {"folder", folder.string()}};
  summary["vocabulary"] = dataset.manifest().vocabulary_size;
  summary["train_tokens"] = dataset.train_tokens();
  summary["held_out_tokens"] = dataset.held_out_tokens();
  summary["held_out_bytes"] = dataset.held_out_bytes();
  summary["fim_rate"] = dataset.manifest().fim_rate;
  summary["newline_split_rate"] = dataset.manifest().split_rate;
  for (const CorpusManifest& corpus : dataset.manifest().corpora)
    summary["corpora"][corpus.name] = {{"documents_read", corpus.documents_read},
                                       {"duplicates", corpus.duplicates},
                                       {"train_documents", corpus.train.documents},
                                       {"train_tokens", corpus.train.tokens},
                                       {"held_out_documents", corpus.held_out.documents}};
  return summary;
}

Json inspect_path(const fs::path& path, bool tensors, bool memory) {
  if (!fs::exists(path)) fail("{}: no such file or folder", path.string());
  if (path.extension() == ".toml") return inspect_recipe(path, memory);
  if (memory) fail("{}: --memory is of a recipe (a .toml file)", path.string());
  if (path.extension() == ".safetensors") {
    const SafetensorsFile file(path);
    Json summary{{"kind", "safetensors"}, {"file", path.string()}};
    summary["weights"] = stored_summary({&file}, tensors);
    return summary;
  }
  if (path.filename() == "tokenizer.json") {
    const Tokenizer tokenizer = Tokenizer::read(path);
    return {{"kind", "tokenizer"},
            {"file", path.string()},
            {"vocabulary", tokenizer.vocabulary_size()},
            {"added_tokens", tokenizer.added_tokens().size()}};
  }
  if (path.extension() == ".json") return inspect_config(path);
  if (fs::exists(path / "dataset.json")) return inspect_dataset(path);
  if (const fs::path tokenizer = path / "tokenizer.json";
      fs::exists(tokenizer) && !fs::exists(path / "config.json"))
    return inspect_path(tokenizer, tensors, memory);
  const fs::path folder = resolve_model_folder(path);
  if (!holds_weights(folder)) return inspect_config(folder / "config.json");
  Json summary = inspect_model_folder(folder, tensors);
  if (const auto checkpoint = verified_checkpoint_of(folder))
    summary["checkpoint"] = {{"folder", checkpoint->string()}, {"checksums", "verified"}};
  return summary;
}

// Nested objects as indented lines; large numbers also in short form.
void print_plain(const Json& json, int indent) {
  for (const auto& [key, value] : json.items()) {
    if (key == "serving" || key == "refused") continue;
    const std::string pad(static_cast<size_t>(indent), ' ');
    if (key == "list") {
      for (const Json& tensor : value)
        fmt::print("{}{:<64} {:<8} {}\n", pad, printable(tensor["name"].get<std::string>()),
                   tensor["dtype"].get<std::string>(), tensor["shape"].dump());
    } else if (value.is_object()) {
      fmt::print("{}{}\n", pad, printable(key));
      print_plain(value, indent + 2);
    } else {
      std::string text = value.is_number_float()
                             ? fmt::format("{:.6g}", value.get<double>())
                             : printable(value.is_string() ? value.get<std::string>() : value.dump());
      if (value.is_number_integer() && value.get<int64_t>() >= 100000)
        text += fmt::format("  ({})", short_count(value.get<double>()));
      fmt::print("{}{:<{}} {}\n", pad, printable(key), 40 - indent, text);
    }
  }
}

}  // namespace

int run_inspect(const InspectOptions& options) {
  const Json summary = inspect_path(options.path, options.tensors, options.memory);
  if (options.json)
    print_json(summary);
  else
    print_plain(summary, 0);
  if (!options.json && summary.contains("serving")) print_serving(summary["serving"]);
  if (summary.contains("refused")) fail("{}", summary["refused"].get<std::string>());
  return 0;
}

}  // namespace moray
