#include "apps/bench_command.h"

#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "apps/model_argument.h"
#include "backend/simd.h"
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

}  // namespace

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
  const nlohmann::ordered_json all = {{"machine", machine_name()},
                                      {"threads", limits.threads},
                                      {"l1_bytes", limits.caches.l1},
                                      {"l2_bytes", limits.caches.l2},
                                      {"l3_bytes", limits.caches.l3},
                                      {"figures", figures},
                                      {"spread", limits.spread},
                                      {"load_average", limits.noise.load_average},
                                      {"other_processes", limits.noise.others},
                                      {"steal", limits.noise.steal}};
  fmt::print("{}\n", all.dump());
  return 0;
}

int run_bench_step(const BenchStepOptions& options) {
  Config config = Config::read(options.recipe);
  for (const std::string& assignment : options.assignments) config.set(assignment);
  const Recipe recipe = Recipe::from_config(config);
  Workplace workplace(options.threads);
  const int threads = workplace.pool.threads();
  Trainer trainer(workplace.exec, recipe.model, recipe.train);
  const SampleSource source = [&](uint64_t n, std::span<int32_t> tokens, std::span<int32_t> starts) {
    Random random(1, n);
    for (int32_t& token : tokens)
      token = static_cast<int32_t>(random.below(static_cast<uint64_t>(recipe.model.vocab_size)));
    std::fill(starts.begin(), starts.end(), 0);
  };
  double best_rate = 0;
  for (int step = 0; step <= options.steps; ++step) {  // the first warms memory up
    const auto start = std::chrono::steady_clock::now();
    const StepResult result = trainer.step(source);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (step > 0) best_rate = std::max(best_rate, static_cast<double>(result.batch_tokens) / seconds);
  }
  const double flops = flops_a_token(recipe.model, recipe.train.sequence_length);
  const double gflops = best_rate * flops / 1e9, peak = fma_peak_gflops(simd_name(), threads);
  if (options.json)
    fmt::print("{}\n", nlohmann::ordered_json{{"tokens_per_second", best_rate},
                                              {"flops_per_token", flops},
                                              {"gflops", gflops},
                                              {"fma_peak_gflops", peak},
                                              {"ratio", gflops / peak},
                                              {"threads", threads},
                                              {"simd", simd_name()}}
                           .dump());
  else
    fmt::print(
        "{:.0f} tokens/s, {:.1f} MFLOP a token: {:.1f} GFLOP/s = {:.1f}% of the multiply-add peak ({:.1f} "
        "GFLOP/s, {}, {} threads)\n",
        best_rate, flops / 1e6, gflops, 100 * gflops / peak, peak, simd_name(), threads);
  return 0;
}

}  // namespace moray
