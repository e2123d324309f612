#include "apps/bench_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/model_argument.h"
#include "apps/output.h"
#include "backend/simd.h"
#include "base/log.h"
#include "base/random.h"
#include "bench/limits.h"
#include "bench/peak.h"
#include "train/trainer.h"

namespace moray {

namespace {

// Multiplications and additions of one step a token: products forward and backward (2 + 4 per parameter), and
// the causal half of attention (scores, values; backward twice that plus the scores again is not counted: no
// recomputation).
double flops_a_token(const deepseek::ModelConfig& model, int64_t sequence_length) {
  const deepseek::ParameterCounts counts = deepseek::count_parameters(model);
  const auto depths = static_cast<double>(model.num_nextn_predict_layers);
  double active = static_cast<double>(counts.active_matmul);
  // An MTP module multiplies with its own chosen experts and with the head once more.
  const int64_t idle_experts = model.n_routed_experts - model.num_experts_per_tok;
  active += static_cast<double>(counts.mtp) +
            depths * static_cast<double>(model.vocab_size * model.hidden_size -
                                         3 * model.hidden_size * model.moe_intermediate_size * idle_experts);
  const double widths = static_cast<double>(
      model.num_attention_heads * (model.qk_nope_head_dim + model.qk_rope_head_dim + model.v_head_dim));
  const double layers = static_cast<double>(model.num_hidden_layers) + depths;
  const double attention = 3 * 2 * widths * layers * static_cast<double>(sequence_length + 1) / 2;
  return 6 * active + attention;
}

// A recipe's trainer on random tokens.
class StepBench {
 public:
  StepBench(const Recipe& recipe, int threads)
      : workplace_(threads), trainer_(workplace_.exec, recipe.model, recipe.train) {
    const auto vocabulary = static_cast<uint64_t>(recipe.model.vocab_size);
    source_ = [vocabulary](uint64_t n, std::span<int32_t> tokens, std::span<int32_t> starts) {
      Random random(1, n);
      for (int32_t& token : tokens) token = static_cast<int32_t>(random.below(vocabulary));
      std::fill(starts.begin(), starts.end(), 0);
    };
    trainer_.step(source_);  // warms memory up
  }

  void step() {
    const auto start = std::chrono::steady_clock::now();
    const StepResult result = trainer_.step(source_);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best_rate_ = std::max(best_rate_, static_cast<double>(result.batch_tokens) / seconds);
  }

  // Where the time of one more step goes.
  std::string table() {
    return table_of(workplace_.exec, [&] { trainer_.step(source_); });
  }

  int threads() const { return workplace_.pool.threads(); }
  double best_rate() const { return best_rate_; }  // tokens a second

 private:
  Workplace workplace_;
  Trainer trainer_;
  SampleSource source_;
  double best_rate_ = 0;
};

struct StepFigures {
  int threads = 1;
  double tokens_per_second = 0, flops_per_token = 0, fma_peak = 0;
  double one_thread_tokens_per_second = 0;  // 0: not measured
  Noise noise;

  double gflops() const { return tokens_per_second * flops_per_token / 1e9; }
};

void print_text(const StepFigures& figures, const std::string& table) {
  fmt::print(
      "{:.0f} tokens/s, {:.1f} MFLOP a token: {:.1f} GFLOP/s = {:.1f}% of the multiply-add peak ({:.1f} "
      "GFLOP/s, {}, {} threads)\n",
      figures.tokens_per_second, figures.flops_per_token / 1e6, figures.gflops(),
      100 * figures.gflops() / figures.fma_peak, figures.fma_peak, simd_name(), figures.threads);
  if (figures.one_thread_tokens_per_second > 0)
    fmt::print("one thread: {:.0f} tokens/s; {} threads are {:.2f} times as fast\n",
               figures.one_thread_tokens_per_second, figures.threads,
               figures.tokens_per_second / figures.one_thread_tokens_per_second);
  fmt::print("noise: {}\n{}", figures.noise.to_string(), table);
}

void print_step_json(const StepFigures& figures, const std::string& table) {
  nlohmann::ordered_json json = {{"tokens_per_second", figures.tokens_per_second},
                                 {"flops_per_token", figures.flops_per_token},
                                 {"gflops", figures.gflops()},
                                 {"fma_peak_gflops", figures.fma_peak},
                                 {"ratio", figures.gflops() / figures.fma_peak},
                                 {"threads", figures.threads},
                                 {"simd", simd_name()}};
  if (figures.one_thread_tokens_per_second > 0)
    json["one_thread_tokens_per_second"] = figures.one_thread_tokens_per_second;
  add_noise(json, figures.noise);
  print_json(json);
  log::write_plain(table);
}

}  // namespace

void add_noise(nlohmann::ordered_json& json, const Noise& noise) {
  json["load_average"] = noise.load_average;
  json["other_processes"] = noise.others;
  json["steal"] = noise.steal;
}

std::string table_of(Exec& exec, const std::function<void()>& body) {
  Tracer tracer;
  exec.tracer = &tracer;
  body();
  exec.tracer = nullptr;
  return tracer.table();
}

int run_bench_limits(const BenchLimitsOptions& options) {
  const Limits limits = measure_limits(resolve_threads(options.threads));
  if (!options.json) {
    fmt::print("{}", limits_table(limits));
    return 0;
  }
  nlohmann::ordered_json figures = nlohmann::ordered_json::array();
  const auto rate = [](const Rate& r) {
    return nlohmann::ordered_json{{"best", r.best}, {"median", r.median}};
  };
  for (const LimitFigure& figure : limits.figures)
    figures.push_back({{"name", figure.name},
                       {"unit", figure.unit},
                       {"one_thread", rate(figure.one)},
                       {"all_threads", rate(figure.all)}});
  nlohmann::ordered_json all = {{"machine", machine_name()},
                                {"threads", limits.threads},
                                {"l1_bytes", limits.caches.l1_bytes},
                                {"l2_bytes", limits.caches.l2_bytes},
                                {"l3_bytes", limits.caches.l3_bytes},
                                {"figures", figures},
                                {"spread", limits.spread}};
  add_noise(all, limits.noise);
  print_json(all);
  return 0;
}

int run_bench_step(const BenchStepOptions& options) {
  Config config = Config::read(options.recipe);
  for (const std::string& assignment : options.assignments) config.set(assignment);
  const Recipe recipe = Recipe::from_config(config);
  const NoiseProbe noise;
  StepBench bench(recipe, resolve_threads(options.threads));
  std::optional<StepBench> alone;
  if (options.scaling) alone.emplace(recipe, 1);
  for (int step = 0; step < options.steps; ++step) {  // in turns, so that noise meets both
    bench.step();
    if (alone) alone->step();
  }
  StepFigures figures;
  figures.threads = bench.threads();
  figures.tokens_per_second = bench.best_rate();
  figures.flops_per_token = flops_a_token(recipe.model, recipe.train.sequence_length);
  figures.fma_peak = fma_peak_gflops(simd_name(), bench.threads());
  if (alone) figures.one_thread_tokens_per_second = alone->best_rate();
  figures.noise = noise.noise();
  const std::string table = options.table ? bench.table() : "";
  if (options.json)
    print_step_json(figures, table);
  else
    print_text(figures, table);
  return 0;
}

}  // namespace moray
