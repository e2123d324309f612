// `moray train` and `moray report`: options and examples.
#include "apps/command_line.h"
#include "apps/report_command.h"
#include "apps/train_command.h"

namespace moray {

void add_train(CLI::App& app, Action& action) {
  auto* train = add_command(
      app, "train", "train a model as a recipe says",
      "  moray train recipes/tiny.toml --set data.dataset=dataset\n"
      "  moray train recipes/tiny.toml --resume\n"
      "  moray train recipes/small.toml --run runs/b --set train.seed=2 --set train.micro_batch=8\n");
  auto options = std::make_shared<TrainOptions>();
  train->add_option("recipe", options->recipe, "RECIPE.toml")->required();
  one_each(train->add_option("--set", options->assignments,
                             "KEY=VALUE, overrides a key of the recipe; may be repeated"));
  train->add_option("--run", options->run, "the run's folder (default: runs/RECIPE)");
  auto* resume_option =
      train
          ->add_option("--resume", options->resume_from,
                       "go on from the newest checkpoint of the run, or start if there is none")
          ->expected(0, 1)
          ->type_name("[auto]")
          ->check(CLI::IsMember({"auto"}));
  train->add_option("--init", options->init, "Hugging Face folder to take the first weights from");
  train->add_option(
      "--trace", options->trace,
      "file for a Chrome trace of a few steps (Perfetto opens it); prints a table of where the time went");
  train->add_option("--trace-steps", options->trace_steps, "steps to trace, after two of warm-up")
      ->capture_default_str()
      ->check(at_least_one());
  add_threads(train, options->threads);
  add_json(train, options->json);
  train->callback([=, &action] {
    options->resume = resume_option->count() > 0;
    action = [=] { return run_train(*options); };
  });
}

void add_report(CLI::App& app, Action& action) {
  auto* report =
      add_command(app, "report", "one HTML page of a run, or of several side by side",
                  "  moray report runs/tiny\n  moray report runs/a runs/b --output compare.html\n");
  auto options = std::make_shared<ReportOptions>();
  report->add_option("runs", options->runs, "run folders")->required();
  report->add_option("--output", options->output, "the page (default: report.html in the only run's folder)");
  add_json(report, options->json);
  report->callback([=, &action] { action = [=] { return run_report(*options); }; });
}

}  // namespace moray
