#include "apps/bench_serve_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/bench_command.h"
#include "apps/model_argument.h"
#include "apps/output.h"
#include "backend/simd.h"
#include "base/log.h"
#include "base/random.h"
#include "bench/bandwidth.h"
#include "bench/peak.h"
#include "checkpoint/safetensors_writer.h"
#include "report/progress.h"
#include "serve/engine.h"
#include "serve/packed_cache.h"
#include "serve/random_model.h"
#include "serve/serving_need.h"
#include "train/model_folder.h"
#include "train/recipe.h"

namespace moray {

namespace {

DType weight_dtype(const std::string& format) {
  if (format == "f32") return DType::f32;
  if (format == "bf16") return DType::bf16;
  if (format == "fp8") return DType::f8_e4m3;
  if (format == "8bit") return DType::i8;
  if (format == "4bit") return DType::u8;
  fail("--format is '{}', expected f32, bf16, fp8, 8bit or 4bit", format);
}

// A recipe's [model]; `assignments` (--set) can name nothing else.
deepseek::ModelConfig model_of_recipe(const std::string& recipe,
                                      const std::vector<std::string>& assignments) {
  Config config = Config::read(recipe);
  for (const std::string& assignment : assignments) config.set(assignment);
  deepseek::ModelConfig model = deepseek::ModelConfig::from_recipe(config);
  config.reject_unknown_keys("model");
  return model;
}

deepseek::ModelConfig model_of(const BenchServeOptions& options) {
  deepseek::ModelConfig model = model_of_recipe(options.recipe, options.assignments);
  model.num_nextn_predict_layers = 0;
  return model;
}

// Random weights in panels. Throws Error where they and a context do not fit in memory.
ServedModel served_model(Exec& exec, const deepseek::ModelConfig& config, DType dtype,
                         int64_t context_tokens) {
  const WeightForm form = dtype == DType::f8_e4m3 ? WeightForm::fp8
                          : dtype == DType::i8    ? WeightForm::int8
                          : dtype == DType::u8    ? WeightForm::int4
                                                  : WeightForm::bf16;
  const size_t weights = weight_bytes(config, form) * (dtype == DType::f32 ? 2 : 1);
  const EngineOptions engine;
  expect_memory(config, memory_need(config, weights, engine.cache_dtype, engine.chunk_tokens, context_tokens),
                available_memory_bytes());
  ServedModel served = random_model(exec, config, dtype);
  pack_weights(exec, served);
  return served;
}

std::vector<int32_t> random_tokens(int64_t count, int64_t vocabulary) {
  Random random(2, 1);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) id = static_cast<int32_t>(random.below(static_cast<uint64_t>(vocabulary)));
  return ids;
}

template <class Body>
double seconds_of(const Body& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Floating-point operations of a prompt: products of every token, the head's of the last alone, and causal
// attention in the expanded form.
double prompt_flops(const deepseek::ModelConfig& model, double tokens) {
  const auto head = static_cast<double>(model.vocab_size * model.hidden_size);
  const double products = static_cast<double>(deepseek::count_parameters(model).active_matmul) - head;
  const double widths = static_cast<double>(
      model.num_attention_heads * (model.qk_nope_head_dim + model.qk_rope_head_dim + model.v_head_dim));
  return 2 * (products * tokens + head) +
         2 * widths * static_cast<double>(model.num_hidden_layers) * tokens * (tokens + 1) / 2;
}

// A recipe's [model], a config.json, or the config.json of a folder.
deepseek::ModelConfig shape_of(const BenchMakeModelOptions& options) {
  const fs::path shape = options.shape;
  if (!shape.string().ends_with(".toml")) {
    if (!options.assignments.empty()) fail("--set changes a recipe, and {} is none", options.shape);
    const fs::path path = fs::is_directory(shape) ? shape / "config.json" : shape;
    auto json = nlohmann::ordered_json::parse(read_file(path), nullptr, false);
    if (json.is_object()) json.erase("quantization_config");  // --format says what the new weights are
    return deepseek::ModelConfig::from_json(json.is_object() ? json.dump() : read_file(path), path.string());
  }
  return model_of_recipe(options.shape, options.assignments);
}

double median(std::vector<double> numbers) {
  std::ranges::sort(numbers);
  return numbers[numbers.size() / 2];
}

// How long the weights of one token take that are read as fast as memory gives them, tensor after tensor. It
// is asked of the weights themselves: two threads that read 36 GB/s in one place read 60 where their memory
// lies otherwise.
double seconds_to_read(const std::vector<ReadWeight>& weights, ThreadPool& pool) {
  constexpr int64_t kPiece = 1 << 18;
  double seconds = 0;
  for (const auto& [tensor, share] : weights) {
    const auto bytes = static_cast<int64_t>(tensor.bytes());
    seconds += share * seconds_of([&] {
                 pool.for_stretches((bytes + kPiece - 1) / kPiece, [&](int64_t i, int) {
                   read_memory(tensor.raw() + i * kPiece, std::min(kPiece, bytes - i * kPiece));
                 });
               });
  }
  return seconds;
}

// Tokens one by one, and between them how long their weights take to be read: memory may be shared with other
// machines.
struct DecodeSamples {
  std::vector<double> seconds, to_read;  // of a token; to_read: the shorter of before and after it

  DecodeSamples(int64_t tokens, const std::function<void(int64_t)>& decode,
                const std::function<double()>& read) {
    double before = read();
    for (int64_t i = 0; i < tokens; ++i) {
      seconds.push_back(seconds_of([&] { decode(i); }));
      const double after = read();
      to_read.push_back(std::min(before, after));
      before = after;
    }
  }

  double ratio() const {
    std::vector<double> ratios(seconds.size());
    std::ranges::transform(to_read, seconds, ratios.begin(), std::divides());
    return median(ratios);
  }
};

// From a folder to the first token's logits.
double seconds_to_first_token(const fs::path& folder, int threads, bool packed, double& bytes) {
  return seconds_of([&] {
    Workplace workplace(threads);
    const SafetensorsFolder weights(folder);
    const WeightPlan plan = plan_weights(weights, read_model_config(folder), false);
    bytes = static_cast<double>(plan.bytes());
    const ServedModel served = packed ? load_weights_or_packed(workplace.exec, weights, plan, /*keep=*/true)
                                      : load_weights(workplace.exec, weights, plan);
    Engine engine(workplace.exec, served, {});
    engine.logits(engine.append_prompt(std::array<int32_t, 1>{0}));
  });
}

}  // namespace

int run_bench_make_model(const BenchMakeModelOptions& options) {
  const DType dtype = weight_dtype(options.format);
  const deepseek::ModelConfig config = shape_of(options);
  Workplace workplace(options.threads);
  const auto parameters = static_cast<double>(deepseek::count_parameters(config).total);
  std::optional<Progress> progress;
  write_random_folder(workplace.exec, config, dtype, options.output, kDefaultShardBytes,
                      [&](uint64_t done, uint64_t total) {
                        if (!progress) progress.emplace("make", static_cast<int64_t>(total), "bytes");
                        progress->update(static_cast<int64_t>(done));
                      });
  progress.reset();
  fmt::print("{}: {} parameters of {}, random; no tokenizer\n", options.output, short_count(parameters),
             options.format);
  return 0;
}

int run_bench_load(const BenchLoadOptions& options) {
  const fs::path folder = resolve_model_folder(options.model);
  const NoiseProbe noise;
  double bytes = 0;
  std::array<double, 2> best = {1e30, 1e30};  // fresh, packed
  const size_t ways = options.packed ? 2 : 1;
  // The first round fills the page cache and writes the packed file.
  for (int round = 0; round < options.rounds; ++round)
    for (size_t way = 0; way < ways; ++way) {
      const double seconds = seconds_to_first_token(folder, options.threads, way == 1, bytes);
      if (round > 0) best[way] = std::min(best[way], seconds);
    }
  const int threads = resolve_threads(options.threads);
  BandwidthProbe probe(threads, int64_t{256} << 20);
  const double limit = bandwidth_limit(probe, Moves::elsewhere, threads) * 1e9 / 2;  // bytes copied
  if (options.json) {
    nlohmann::ordered_json json{{"bytes", bytes}, {"fresh_seconds", best[0]}};
    if (options.packed) json["packed_seconds"] = best[1];
    json["copied_bytes_per_second"] = limit;
    add_noise(json, noise.noise());
    print_json(json);
    return 0;
  }
  const auto print = [&](const std::string& what, double seconds) {
    fmt::print("{}: {:.2f} s, {:.1f}% of a plain copy in memory ({:.1f} GB/s)\n", what, seconds,
               100 * bytes / seconds / limit, limit / 1e9);
  };
  print(fmt::format("{:.2f} GB of weights, from the folder to the first token", bytes / 1e9), best[0]);
  if (options.packed) print("from the packed file", best[1]);
  fmt::print("noise: {}\n", noise.noise().to_string());
  return 0;
}

int run_bench_decode(const BenchServeOptions& options) {
  const NoiseProbe noise;
  const deepseek::ModelConfig config = model_of(options);
  const DType dtype = weight_dtype(options.format);
  Workplace workplace(options.threads);
  Exec& exec = workplace.exec;
  const ServedModel served =
      served_model(exec, config, dtype, std::ranges::max(options.contexts) + options.tokens + 2);
  const std::vector<ReadWeight> of_token = weights_of_a_token(served);
  double weights = 0;
  for (const ReadWeight& weight : of_token) weights += weight.bytes();
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  std::string tables;
  for (int64_t context : options.contexts) {
    Engine engine(exec, served, {});
    engine.append_prompt(random_tokens(context, config.vocab_size));
    const std::vector<int32_t> ids = random_tokens(options.tokens + 2, config.vocab_size);
    const auto decode = [&](int64_t i) {
      engine.logits(engine.append_generated(ids[static_cast<size_t>(i)]));
    };
    for (int64_t i = 0; i < 2; ++i) decode(i);
    const DecodeSamples samples(
        options.tokens, [&](int64_t i) { decode(i + 2); },
        [&] { return seconds_to_read(of_token, workplace.pool); });
    rows.push_back({{"context", context},
                    {"tokens_per_second", 1 / median(samples.seconds)},
                    {"weight_gb_per_second", weights / median(samples.seconds) / 1e9},
                    {"read_limit_gb_per_second", weights / median(samples.to_read) / 1e9},
                    {"ratio", samples.ratio()},
                    {"seconds", samples.seconds},
                    {"seconds_to_read", samples.to_read}});
    if (options.table)
      tables += fmt::format("after {} tokens of context, {} tokens:\n{}", context, options.tokens,
                            table_of(exec, [&] {
                              for (int64_t i = 0; i < options.tokens; ++i) decode(i);
                            }));
  }
  if (options.json) {
    nlohmann::ordered_json json{{"format", options.format},
                                {"weight_bytes_a_token", weights},
                                {"threads", workplace.pool.threads()},
                                {"decode", rows}};
    add_noise(json, noise.noise());
    print_json(json);
    log::write_plain(tables);
    return 0;
  }
  fmt::print("{} weights, {:.1f} MB read a token, {} threads, {}\n", options.format, weights / 1e6,
             workplace.pool.threads(), simd_name());
  for (const auto& row : rows)
    fmt::print(
        "context {:>7}: {:6.2f} tokens/s, {:.1f} GB/s = {:.1f}% of what a plain reading of them takes "
        "({:.1f} GB/s)\n",
        row["context"].get<int64_t>(), row["tokens_per_second"].get<double>(),
        row["weight_gb_per_second"].get<double>(), 100 * row["ratio"].get<double>(),
        row["read_limit_gb_per_second"].get<double>());
  fmt::print("noise: {}\n{}", noise.noise().to_string(), tables);
  return 0;
}

int run_bench_prefill(const BenchServeOptions& options) {
  const NoiseProbe noise;
  const deepseek::ModelConfig config = model_of(options);
  Workplace workplace(options.threads);
  const ServedModel served =
      served_model(workplace.exec, config, weight_dtype(options.format), options.prompt_tokens);
  const std::vector<int32_t> ids = random_tokens(options.prompt_tokens, config.vocab_size);
  const auto compute = [&] {
    Engine engine(workplace.exec, served, {});
    return seconds_of([&] { engine.logits(engine.append_prompt(ids)); });
  };
  double best = 1e30;
  for (int round = 0; round < 4; ++round) best = std::min(best, compute());  // the first warms up
  const std::string table = options.table ? table_of(workplace.exec, compute) : "";
  const double gflops = prompt_flops(config, static_cast<double>(options.prompt_tokens)) / best / 1e9;
  const double peak = fma_peak_gflops(simd_name(), workplace.pool.threads());
  const double rate = static_cast<double>(options.prompt_tokens) / best;
  if (options.json) {
    nlohmann::ordered_json json{{"format", options.format},
                                {"tokens_per_second", rate},
                                {"gflops", gflops},
                                {"fma_peak_gflops", peak},
                                {"ratio", gflops / peak}};
    add_noise(json, noise.noise());
    print_json(json);
    log::write_plain(table);
    return 0;
  }
  fmt::print(
      "{} weights, {} tokens: {:.1f} tokens/s, {:.1f} GFLOP/s = {:.1f}% of the multiply-add peak ({:.1f}, "
      "{}, {} threads)\nnoise: {}\n{}",
      options.format, options.prompt_tokens, rate, gflops, 100 * gflops / peak, peak, simd_name(),
      workplace.pool.threads(), noise.noise().to_string(), table);
  return 0;
}

}  // namespace moray
