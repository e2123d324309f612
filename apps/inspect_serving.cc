#include "apps/inspect_serving.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "report/progress.h"
#include "serve/latent_cache.h"
#include "serve/served_model.h"
#include "serve/serving_need.h"

namespace moray {

namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kChunk = 512;
constexpr DType kCaches[] = {DType::bf16, DType::f8_e4m3};

const char* cache_name(DType dtype) {
  return dtype == DType::bf16 ? "bf16" : "fp8";
}

// 4K, 32K and the model's limit.
std::vector<int64_t> contexts_of(const deepseek::ModelConfig& config) {
  std::vector<int64_t> contexts;
  for (int64_t tokens : {int64_t{4096}, int64_t{32768}})
    if (tokens < config.max_position_embeddings) contexts.push_back(tokens);
  contexts.push_back(config.max_position_embeddings);
  return contexts;
}

void add_needs(const deepseek::ModelConfig& config, const std::string& weights, size_t weight_bytes,
               Json& needs) {
  const size_t free = available_memory_bytes(), machine = machine_memory_bytes();
  for (int64_t context : contexts_of(config))
    for (DType cache : kCaches) {
      const MemoryNeed need = memory_need(config, weight_bytes, cache, kChunk, context);
      needs.push_back({{"weights", weights},
                       {"context_tokens", context},
                       {"cache", cache_name(cache)},
                       {"weight_bytes", weight_bytes},
                       {"cache_bytes", need.cache},
                       {"working_bytes", need.working},
                       {"bytes", need.all()},
                       {"fits", need.all() <= free},
                       {"fits_when_idle", need.all() <= machine}});
    }
}

// A unit in which the largest number has digits before its point.
struct Unit {
  const char* name;
  double bytes;

  explicit Unit(const Json& needs) : name("GiB"), bytes(1 << 30) {
    for (const Json& need : needs)
      if (need["bytes"].get<double>() >= bytes) return;
    name = "MiB";
    bytes = 1 << 20;
  }
  double of(const Json& count) const { return count.get<double>() / bytes; }
};

std::string without_trailing_blanks(const std::string& line) {
  return line.substr(0, line.find_last_not_of(' ') + 1);
}

// The two lines above the rows: contexts, and under each the caches.
std::string table_head(const Json& needs) {
  std::string tokens = fmt::format("{:<10} {:>9}", "", ""),
              caches = fmt::format("{:<10} {:>9}", "weights", "alone");
  for (const Json& need : needs)
    if (need["weights"] == needs.at(0)["weights"]) {
      const bool leads = need["cache"] == cache_name(kCaches[0]);
      tokens += fmt::format("  {:>8} ", leads ? need["context_tokens"].dump() : "");
      caches += fmt::format("  {:>8} ", need["cache"].get<std::string>());
    }
  return without_trailing_blanks(tokens) + "\n" + without_trailing_blanks(caches) + "\n";
}

}  // namespace

Json serving_summary(const deepseek::ModelConfig& config, const SafetensorsFolder* stored, bool quantized) {
  Json summary{{"machine_memory_bytes", machine_memory_bytes()},
               {"free_memory_bytes", available_memory_bytes()},
               {"chunk_tokens", kChunk}};
  for (DType cache : kCaches)
    summary["cache_bytes_per_token"][cache_name(cache)] =
        LatentCache::token_bytes(config, config.num_hidden_layers, cache);
  Json needs = Json::array();
  try {
    if (stored != nullptr)
      add_needs(config, "as stored", plan_weights(*stored, config, /*with_mtp=*/false).bytes(), needs);
  } catch (const Error& error) {
    summary["refused"] = error.what();
  }
  for (WeightForm form : kWeightForms)
    if (!quantized) add_needs(config, std::string(weight_form_name(form)), weight_bytes(config, form), needs);
  summary["needs"] = needs;
  return summary;
}

void print_serving(const Json& summary) {
  const Json& needs = summary["needs"];
  if (needs.empty()) return;
  const Unit unit(needs);
  fmt::print(
      "\nmemory to serve, {}: weights, the cache of so many tokens, and what chunks of {} work in\n"
      "(* fits the {:.1f} {} free now, + would fit this machine's {:.1f} were they free)\n{}",
      unit.name, summary["chunk_tokens"].get<int64_t>(), unit.of(summary["free_memory_bytes"]), unit.name,
      unit.of(summary["machine_memory_bytes"]), table_head(needs));
  std::vector<std::string> rows;
  std::string weights;
  for (const Json& need : needs) {
    if (weights != need["weights"]) {
      weights = need["weights"];
      rows.push_back(fmt::format("{:<10} {:>9.2f}", weights, unit.of(need["weight_bytes"])));
    }
    const bool fits = need["fits"].get<bool>(), idle = need["fits_when_idle"].get<bool>();
    rows.back() += fmt::format("  {:>8.2f}{}", unit.of(need["bytes"]), fits ? "*" : idle ? "+" : " ");
  }
  for (const std::string& row : rows) fmt::print("{}\n", without_trailing_blanks(row));
}

}  // namespace moray
