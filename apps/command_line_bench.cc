// `moray bench`: options and examples.
#include "apps/bench_command.h"
#include "apps/bench_serve_command.h"
#include "apps/command_line.h"

namespace moray {

namespace {

void add_bench_serve(CLI::App& bench, Action& action) {
  const auto add = [&](const char* name, const char* about, const std::string& examples,
                       int (*run)(const BenchServeOptions&)) {
    auto* command = add_command(bench, name, about, examples);
    auto options = std::make_shared<BenchServeOptions>();
    command->add_option("recipe", options->recipe, "RECIPE.toml, whose [model] is taken")->required();
    one_each(command->add_option("--set", options->assignments,
                                 "KEY=VALUE, overrides a key of the recipe; may be repeated"));
    command->add_option("--format", options->format, "of the weights: f32, bf16, fp8, 8bit or 4bit")
        ->capture_default_str();
    command->add_flag("--table", options->table, "where the time goes, by op family");
    add_threads(command, options->threads);
    add_json(command, options->json);
    command->callback([=, &action] { action = [=] { return run(*options); }; });
    return std::pair{command, options};
  };
  const auto [decode, decode_options] =
      add("decode", "tokens one by one on random weights, against memory's read bandwidth",
          "  moray bench decode recipes/v2-lite.toml --set model.num_hidden_layers=7 --context 128 8192\n",
          run_bench_decode);
  decode
      ->add_option("--context", decode_options->contexts,
                   "tokens before the first; several are measured in turn")
      ->check(at_least_one());
  decode->add_option("--tokens", decode_options->tokens, "to decode")
      ->capture_default_str()
      ->check(at_least_one());
  const auto [prefill, prefill_options] =
      add("prefill", "a prompt on random weights, against the multiply-add peak",
          "  moray bench prefill recipes/v2-lite.toml --set model.num_hidden_layers=7 --format fp8\n",
          run_bench_prefill);
  prefill->add_option("--tokens", prefill_options->prompt_tokens, "of the prompt")
      ->capture_default_str()
      ->check(at_least_one());
}

void add_bench_folders(CLI::App& bench, Action& action) {
  auto* make = add_command(bench, "make-model", "write a model folder of random weights, of any shape",
                           "  moray bench make-model recipes/v2-lite.toml /tmp/v2-lite-8bit --format 8bit "
                           "--set model.num_hidden_layers=7\n"
                           "  moray bench make-model DeepSeek-V3/config.json /fast/v3-4bit --format 4bit\n");
  auto options = std::make_shared<BenchMakeModelOptions>();
  make->add_option("shape", options->shape, "RECIPE.toml, config.json or a model folder")->required();
  make->add_option("output", options->output, "the folder to make")->required();
  one_each(make->add_option("--set", options->assignments,
                            "KEY=VALUE, overrides a key of the recipe; may be repeated"));
  make->add_option("--format", options->format, "f32, bf16, fp8, 8bit or 4bit")->capture_default_str();
  add_threads(make, options->threads);
  make->callback([=, &action] { action = [=] { return run_bench_make_model(*options); }; });

  auto* load = add_command(bench, "load", "from a folder to the first token, the folder in the page cache",
                           "  moray bench load /tmp/v2-lite-8bit --packed\n");
  auto load_options = std::make_shared<BenchLoadOptions>();
  load->add_option("model", load_options->model, "a model folder")->required();
  load->add_flag("--packed", load_options->packed, "also from the packed file, which is written if need be");
  load->add_option("--rounds", load_options->rounds, "the first fills the page cache and does not count")
      ->capture_default_str()
      ->check(CLI::Range(2, 1000));
  add_threads(load, load_options->threads);
  add_json(load, load_options->json);
  load->callback([=, &action] { action = [=] { return run_bench_load(*load_options); }; });
}

}  // namespace

void add_bench(CLI::App& app, Action& action) {
  CLI::App* bench = app.add_subcommand("bench", "how fast this machine is");
  bench->require_subcommand(1);
  auto* limits = add_command(
      *bench, "limits", "what this machine can do: multiply-adds, caches, memory; and how noisy it is now",
      "  moray bench limits\n  moray bench limits --threads 2 --json\n");
  auto limits_options = std::make_shared<BenchLimitsOptions>();
  add_threads(limits, limits_options->threads);
  add_json(limits, limits_options->json);
  limits->callback([=, &action] { action = [=] { return run_bench_limits(*limits_options); }; });

  add_bench_serve(*bench, action);
  add_bench_folders(*bench, action);
  auto* step = add_command(
      *bench, "step", "whole training steps of a recipe's model, against the multiply-add peak",
      "  moray bench step recipes/small.toml\n  moray bench step recipes/tiny.toml --threads 1\n");
  auto options = std::make_shared<BenchStepOptions>();
  step->add_option("recipe", options->recipe, "RECIPE.toml")->required();
  one_each(step->add_option("--set", options->assignments,
                            "KEY=VALUE, overrides a key of the recipe; may be repeated"));
  step->add_option("--steps", options->steps, "steps to time")->capture_default_str()->check(at_least_one());
  step->add_flag("--scaling", options->scaling, "also on one thread, in turns");
  step->add_flag("--table", options->table, "where the time of a step goes, by op family");
  add_threads(step, options->threads);
  add_json(step, options->json);
  step->callback([=, &action] { action = [=] { return run_bench_step(*options); }; });
}

}  // namespace moray
