#include "apps/quantize_command.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/eval_command.h"
#include "apps/model_argument.h"
#include "apps/output.h"
#include "checkpoint/checkpoint.h"
#include "report/progress.h"
#include "serve/quantize.h"
#include "serve/weight_plan.h"
#include "train/model_folder.h"

namespace moray {

namespace {

EvalOptions comparison(const QuantizeOptions& options, const fs::path& original) {
  EvalOptions eval;
  eval.serving.model = options.output;
  eval.serving.threads = options.threads;
  eval.against = original.string();
  eval.text = options.text;
  return eval;
}

}  // namespace

int run_quantize(const QuantizeOptions& options) {
  const IntFormat format = parse_int_format(options.format, "--format");
  const fs::path folder = resolve_model_folder(options.model);
  // What cannot be measured is told before long work.
  if (!options.text.empty() && read_file(options.text, kAnySize).empty()) fail("{}: is empty", options.text);
  verified_checkpoint_of(folder);
  // Missing, mis-shaped and foreign tensors are told before long work, not by the first use of what it made.
  plan_weights(SafetensorsFolder(folder), read_model_config(folder), /*with_mtp=*/false);
  Workplace workplace(options.threads);
  std::unique_ptr<Progress> progress;
  const QuantizeSummary summary =
      quantize_folder(workplace.exec, folder, options.output, format, [&](uint64_t done, uint64_t total) {
        if (!progress)
          progress = std::make_unique<Progress>("quantize", static_cast<int64_t>(total), "bytes");
        progress->update(static_cast<int64_t>(done));
      });
  progress.reset();
  std::optional<Divergence> cost;
  if (!options.text.empty()) cost = measure_divergence(comparison(options, folder));
  if (options.json) {
    nlohmann::ordered_json json{{"folder", options.output},
                                {"format", options.format},
                                {"bytes_before", summary.bytes_before},
                                {"bytes_after", summary.bytes_after},
                                {"shards", summary.shards},
                                {"shards_there", summary.shards_there}};
    if (cost) json["cost"] = divergence_json(*cost);
    print_json(json);
    return 0;
  }
  fmt::print("{}: {}, {}B of weights from {}B\n", options.output, options.format,
             short_count(static_cast<double>(summary.bytes_after)),
             short_count(static_cast<double>(summary.bytes_before)));
  if (cost)
    fmt::print("{}", divergence_text(*cost));
  else
    fmt::print("what it costs: moray eval --model {} --against {} --text FILE\n", options.output,
               options.model);
  return 0;
}

}  // namespace moray
