#include "apps/pull_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "apps/model_argument.h"
#include "apps/output.h"
#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "checkpoint/fp8_weights.h"
#include "checkpoint/safetensors_writer.h"
#include "models/deepseek/config.h"
#include "report/progress.h"
#include "serve/quantize.h"
#include "serve/weight_plan.h"

namespace moray {

namespace {

// The shard of each tensor by the repository's index, where it has one.
std::optional<std::map<std::string, std::string>> indexed_tensors(const fs::path& originals) {
  const fs::path path = originals / "model.safetensors.index.json";
  if (!fs::exists(path)) return std::nullopt;
  std::map<std::string, std::string> shard_of;
  const nlohmann::json index = parse_json(read_file(path), path.string());
  for (const auto& [name, shard] : json_object(index, "weight_map", path.string()).items()) {
    if (!shard.is_string()) fail("{}: the shard of '{}' is not a string", path.string(), name);
    shard_of[name] = shard.get<std::string>();
  }
  return shard_of;
}

// Where FP8 weights and their scales lie in different shards, both are needed.
std::vector<std::string> shards_for(const fs::path& originals, const std::string& shard) {
  std::set<std::string> needed = {shard};
  if (const auto shard_of = indexed_tensors(originals))
    for (const auto& [name, holder] : *shard_of) {
      const auto scale = shard_of->find(fp8_scale_name(name));
      if (holder == shard && scale != shard_of->end()) needed.insert(scale->second);
    }
  return {needed.begin(), needed.end()};
}

// Those that the repository's index names, where it has one.
std::vector<std::string> indexed_shards(const fs::path& originals, const std::vector<std::string>& shards) {
  const auto shard_of = indexed_tensors(originals);
  if (!shard_of) return shards;
  std::set<std::string> named;
  for (const auto& [name, shard] : *shard_of) named.insert(shard);
  std::vector<std::string> list;
  std::ranges::copy_if(shards, std::back_inserter(list),
                       [&](const std::string& name) { return named.contains(name); });
  return list;
}

// Refuses what could not be served as soon as that can be told: by config.json, and by the names of an index.
void expect_of_use(const fs::path& originals) {
  const fs::path path = originals / "config.json";
  if (!fs::exists(path)) fail("the repository has no config.json");
  const std::string text = read_file(path), where = "the repository's config.json";
  const auto config = deepseek::ModelConfig::from_json(text, where);
  expect_quantizable(text, where);
  if (const auto shard_of = indexed_tensors(originals)) {
    std::set<std::string> names;
    for (const auto& [name, shard] : *shard_of) names.insert(name);
    expect_tensor_names(names, config, "the repository's model.safetensors.index.json");
  }
}

deepseek::ModelConfig config_in(const fs::path& originals) {
  const fs::path path = originals / "config.json";
  return deepseek::ModelConfig::from_json(read_file(path), path.string());
}

// A pull as it is may be meant for another program.
void warn_if_not_served(const fs::path& config) {
  try {
    deepseek::ModelConfig::from_json(read_file(config), "its config.json");
  } catch (const Error& error) {
    log::warning("moray cannot run this model: {}", error.what());
  }
}

void expect_of_model(const SafetensorsFile& shard, const fs::path& originals) {
  const deepseek::ModelConfig config = config_in(originals);
  expect_tensors_of_model(shard, config);
  // Where there is no index to tell it by, one file is all there is; its original is not to go first.
  if (shard.path().filename() != "model.safetensors" || indexed_tensors(originals)) return;
  std::set<std::string> names;
  for (const StoredTensor& tensor : shard.tensors()) names.insert(tensor.name);
  expect_tensor_names(names, config, shard.path().string());
}

void convert_shard(Exec& exec, IntFormat format, const fs::path& originals, const std::string& shard,
                   const fs::path& into) {
  std::vector<SafetensorsFile> files;
  for (const std::string& name : shards_for(originals, shard)) files.emplace_back(originals / name);
  const auto own = std::ranges::find(files, originals / shard, &SafetensorsFile::path);
  expect_of_model(*own, originals);
  quantize_shard(exec, *own, files, format, into);
}

hub::Conversion quantization(Exec& exec, IntFormat format) {
  // BF16 becomes 8.25 or 4.5 bits, FP8 twice that share of itself.
  const double least = format == IntFormat::int8 ? 0.5 : 0.28;
  return {
      std::string(int_format_name(format)),
      least,
      expect_of_use,
      shards_for,
      [&exec, format](const fs::path& originals, const std::string& shard, const fs::path& into) {
        convert_shard(exec, format, originals, shard, into);
      },
      [format](const fs::path& originals, const fs::path& folder, const std::vector<std::string>& shards) {
        const std::vector<std::string> indexed = indexed_shards(originals, shards);
        for (const std::string& shard : shards)  // a reader of the folder would not look at it either
          if (std::ranges::find(indexed, shard) == indexed.end()) fs::remove(folder / shard);
        write_safetensors_index(folder, indexed);
        plan_weights(SafetensorsFolder(folder), config_in(originals), false);  // all that serving needs
        write_file_atomically(folder / "config.json",
                              with_int_format(read_file(originals / "config.json"), format));
      }};
}

}  // namespace

int run_pull(const PullCommandOptions& options) {
  hub::PullOptions pull = options.pull;
  constexpr int kMostConnections = 32;
  if (pull.connections < 1 || pull.connections > kMostConnections)
    fail("--connections is {}, expected 1 to {}", pull.connections, kMostConnections);
  hub::expect_repository_name(pull.repository);
  pull.output =
      options.output.empty() ? pull.repository.substr(pull.repository.find('/') + 1) : options.output;

  std::optional<Workplace> workplace;
  std::optional<hub::Conversion> conversion;
  if (!options.quantize.empty()) {
    conversion = quantization(workplace.emplace(0).exec, parse_int_format(options.quantize, "--quantize"));
    pull.conversion = &*conversion;
    if (options.output.empty()) pull.output += "-" + options.quantize;
  }

  pull.on_config = warn_if_not_served;

  std::unique_ptr<Progress> progress;
  const hub::PullSummary summary =
      hub::pull(hub::Hub::from_environment(), pull, [&](uint64_t done, uint64_t total) {
        // The first call says what was there before.
        if (!progress)
          progress = std::make_unique<Progress>("pull", static_cast<int64_t>(total), "bytes",
                                                static_cast<int64_t>(done));
        progress->update(static_cast<int64_t>(done));
      });
  progress.reset();
  if (options.json) {
    const nlohmann::ordered_json json{
        {"folder", pull.output.string()}, {"repository", pull.repository},
        {"commit", summary.commit},       {"files", summary.files},
        {"bytes", summary.bytes},         {"was_complete", summary.was_complete}};
    print_json(json);
  } else {
    fmt::print("{}: {}{} files, {}B, commit {}{}\n", pull.output.string(),
               conversion ? options.quantize + " weights of " : "", summary.files,
               short_count(static_cast<double>(summary.bytes)), summary.commit.substr(0, 12),
               summary.was_complete ? "; was complete already" : "");
    log::info("next: moray inspect {0}, moray chat --model {0}", pull.output.string());
  }
  return 0;
}

}  // namespace moray
