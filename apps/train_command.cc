#include "apps/train_command.h"

#include <fmt/format.h>

#include <bit>
#include <nlohmann/json.hpp>

#include "apps/model_argument.h"
#include "apps/output.h"
#include "base/log.h"
#include "train/run.h"

namespace moray {

int run_train(const TrainOptions& options) {
  Config recipe = Config::read(options.recipe);
  for (const std::string& assignment : options.assignments) recipe.set(assignment);
  const fs::path folder =
      options.run.empty() ? fs::path("runs") / fs::path(options.recipe).stem() : fs::path(options.run);
  Workplace workplace(options.threads);
  const RunSummary summary = run_training(
      workplace.exec, recipe, {folder, options.resume, options.init, options.trace, options.trace_steps});
  const std::string loss_bits = fmt::format("{:016x}", std::bit_cast<uint64_t>(summary.loss));
  if (options.json) {
    nlohmann::ordered_json json{{"run", folder.string()},
                                {"steps", summary.steps},
                                {"tokens", summary.tokens},
                                {"loss", summary.loss},
                                {"loss_bits", loss_bits},
                                {"checkpoint", summary.checkpoint.string()},
                                {"interrupted", summary.interrupted}};
    if (summary.validation_loss) json["validation_loss"] = *summary.validation_loss;
    print_json(json);
  } else {
    fmt::print("{} {} steps, {} tokens: loss {:.6f} (bits {})\n",
               summary.interrupted ? "stopped after" : "trained", summary.steps, summary.tokens, summary.loss,
               loss_bits);
    if (summary.validation_loss) fmt::print("validation loss {:.6f}\n", *summary.validation_loss);
    fmt::print("checkpoint {}\nreport {}\n", summary.checkpoint.string(), (folder / "report.html").string());
    if (summary.interrupted)
      // The run's own recipe has what --set changed.
      fmt::print("go on with: moray train {0}/recipe.toml --run {0} --resume\n", folder.string());
  }
  flush_output();
  if (!summary.interrupted)
    log::info(
        "what next: moray generate --model {0} --prompt TEXT\n           moray eval --model {0} --data {1}",
        folder.string(), recipe.string("data.dataset"));
  constexpr int kInterrupted = 130;
  return summary.interrupted ? kInterrupted : 0;
}

}  // namespace moray
