// `moray plan`: options and examples.
#include "apps/command_line.h"
#include "apps/plan_calibrate_command.h"
#include "apps/plan_command.h"
#include "apps/plan_schedule_command.h"
#include "apps/plan_serve_command.h"

namespace moray {

namespace {

void add_plan_inputs(CLI::App* command, PlanOptions& options) {
  command->add_option("--cluster", options.cluster, "clusters/NAME.toml");
  one_each(
      command->add_option("--set", options.assignments,
                          "KEY=VALUE, overrides a key of the plan, as layout.pipeline=8; may be repeated"));
  add_json(command, options.json);
}

void add_plan_search(CLI::App& plan, Action& action) {
  auto* search = add_command(
      plan, "search", "layouts that fit, best first, and why the others do not",
      "  moray plan search recipes/plan-v3-2048-h800.toml --cluster clusters/h800.toml --gpus 1024 2048\n");
  auto options = std::make_shared<PlanSearchOptions>();
  search->add_option("recipe", options->plan.recipe, "a plan, a training recipe or a config.json")
      ->required();
  add_plan_inputs(search, options->plan);
  search->add_option("--gpus", options->gpus, "numbers of GPUs to try (default: the plan's)")
      ->check(at_least_one());
  search->add_option("--sequences", options->sequences, "sequences of a step (default: the plan's)")
      ->check(at_least_one());
  search->add_option("--rank-by", options->rank_by, "cost or time")->capture_default_str();
  search->add_option("--top", options->most, "rows to show")->capture_default_str()->check(at_least_one());
  search->callback([=, &action] {
    if (options->plan.cluster.empty()) throw CLI::RequiredError("--cluster");
    action = [=] { return run_plan_search(*options); };
  });
}

void add_plan_shapes(CLI::App& plan, Action& action) {
  auto* shapes = add_command(
      plan, "shapes", "other shapes of the model (experts a token, experts, width) at equal communication",
      "  moray plan shapes recipes/plan-v3-2048-h800.toml --cluster clusters/h800.toml\n");
  auto options = std::make_shared<PlanOptions>();
  shapes->add_option("recipe", options->recipe, "a plan, a training recipe or a config.json")->required();
  add_plan_inputs(shapes, *options);
  shapes->callback([=, &action] {
    if (options->cluster.empty()) throw CLI::RequiredError("--cluster");
    action = [=] { return run_plan_shapes(*options); };
  });
}

void add_plan_schedule(CLI::App& plan, Action& action) {
  auto* schedule = add_command(plan, "schedule", "print a pipeline schedule, checked and timed",
                               "  moray plan schedule dualpipe --ranks 8 --micro-batches 20\n"
                               "  moray plan schedule zb1p --ranks 4 --micro-batches 8 --svg zb1p.svg\n");
  auto options = std::make_shared<PlanScheduleOptions>();
  schedule->add_option("schedule", options->schedule, "1f1b, zb1p, dualpipe or dualpipev")->required();
  schedule->add_option("--ranks", options->ranks, "of the pipeline")->capture_default_str();
  schedule->add_option("--micro-batches", options->micro_batches, "a step, both directions together")
      ->capture_default_str();
  schedule
      ->add_option("--costs", options->costs,
                   "F,B,W,FB: forward, whole backward, weight part, overlapped pair")
      ->capture_default_str();
  schedule->add_option("--hop", options->hop, "time from a rank to the next")->capture_default_str();
  schedule->add_option("--svg", options->svg, "file for the picture");
  schedule->add_flag("--steps", options->steps, "list every step, sends and receives included");
  add_json(schedule, options->json);
  schedule->callback([=, &action] { action = [=] { return run_plan_schedule(*options); }; });
}

void add_plan_calibrate(CLI::App& plan, Action& action) {
  auto* calibrate = add_command(plan, "calibrate", "kernel rates from a PyTorch profiler's trace",
                                "  moray plan calibrate trace.json.gz --cluster clusters/h800.toml\n");
  auto options = std::make_shared<PlanCalibrateOptions>();
  calibrate->add_option("trace", options->trace, "Chrome trace: .json, .gz, .zst or .xz")->required();
  calibrate->add_option("--model", options->model, "recipe or config.json of the traced model")
      ->capture_default_str();
  calibrate->add_option("--cluster", options->cluster, "of the traced GPU")->capture_default_str();
  calibrate->add_option("--output", options->output,
                        "file for the rates (TOML), as a plan's `rates` reads them");
  calibrate->add_option("--layers", options->layers, "MoE layers of a chunk")->capture_default_str();
  calibrate->add_option("--tokens", options->tokens, "of the micro-batch")->capture_default_str();
  calibrate->add_option("--expert-parallel", options->expert_parallel, "ranks of the expert group")
      ->capture_default_str();
  add_json(calibrate, options->json);
  calibrate->callback([=, &action] { action = [=] { return run_plan_calibrate(*options); }; });
}

void add_plan_serve(CLI::App& plan, Action& action) {
  auto* serve =
      add_command(plan, "serve", "what prefill and decode units yield, and a search for better ones",
                  "  moray plan serve recipes/plan-v3-serving.toml\n"
                  "  moray plan serve recipes/plan-v3-serving.toml --search --top 20\n");
  auto options = std::make_shared<PlanServeOptions>();
  serve->add_option("recipe", options->recipe, "a model with [prefill] and [decode] units")->required();
  serve->add_option("--cluster", options->cluster, "clusters/NAME.toml")->capture_default_str();
  serve->add_option("--rates", options->rates, "kernel rates, as calibrate writes them (default: assumed)");
  one_each(serve->add_option("--set", options->assignments,
                             "KEY=VALUE, overrides a key of the recipe; may be repeated"));
  one_each(serve->add_option("--what-if", options->what_ifs,
                             "hardware that is no more than an idea; may be repeated"));
  serve->add_flag("--search", options->search, "rank units under the limits of latency");
  serve->add_option("--top", options->shown, "rows of the search to show")
      ->capture_default_str()
      ->check(at_least_one());
  add_json(serve, options->json);
  serve->callback([=, &action] { action = [=] { return run_plan_serve(*options); }; });
}

}  // namespace

void add_plan(CLI::App& app, Action& action) {
  auto* plan =
      add_command(app, "plan", "what a training run costs on a cluster: memory, throughput, time, money",
                  "  moray plan recipes/plan-v3-2048-h800.toml --cluster clusters/h800.toml\n"
                  "  moray plan recipes/v3.toml --cluster clusters/h100.toml --set layout.pipeline=8 --set "
                  "layout.data=64\n");
  plan->require_subcommand(0, 1);
  auto options = std::make_shared<PlanOptions>();
  plan->add_option("recipe", options->recipe, "a plan, a training recipe or a config.json");
  add_plan_inputs(plan, *options);
  plan->add_option("--html", options->html, "file for a page with figures and timeline");
  plan->add_option("--trace", options->trace, "file for the timeline as a Chrome trace (Perfetto opens it)");
  add_plan_search(*plan, action);
  add_plan_shapes(*plan, action);
  add_plan_schedule(*plan, action);
  add_plan_calibrate(*plan, action);
  add_plan_serve(*plan, action);
  plan->callback([=, &action] {
    if (!plan->get_subcommands().empty()) return;
    if (options->recipe.empty()) throw CLI::RequiredError("recipe");
    if (options->cluster.empty()) throw CLI::RequiredError("--cluster");
    action = [=] { return run_plan(*options); };
  });
}

}  // namespace moray
