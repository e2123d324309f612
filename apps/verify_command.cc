#include "apps/verify_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "apps/output.h"
#include "base/utf8.h"
#include "report/progress.h"
#include "serve/verify.h"
#include "train/model_folder.h"

namespace moray {

namespace {

fs::path reference_path(const VerifyOptions& options, const fs::path& folder) {
  if (!options.reference.empty()) return options.reference;
  if (const fs::path inside = folder / "reference.json"; fs::exists(inside)) return inside;
  fail(
      "{}: there is no reference.json, and no reference outputs of published models come with moray yet; "
      "write one "
      "with scripts/write_reference.py (docs/inference.md), or name one with --reference",
      folder.string());
}

nlohmann::ordered_json json_of(const ReferenceCase& reference, const CaseReport& report) {
  return {{"name", reference.name},
          {"prompt_tokens", reference.prompt.size()},
          {"tokens", report.tokens},
          {"equal", report.equal},
          {"ties", report.ties},
          {"largest_difference", report.largest_difference},
          {"layers", report.layers},
          {"equal_layers", report.equal_layers},
          {"first_difference", report.first_difference}};
}

void print_case(const ReferenceCase& reference, const CaseReport& report) {
  const std::string experts =
      report.layers > 0 ? fmt::format("{}/{} layers", report.equal_layers, report.layers) : "not recorded";
  fmt::print("{:<20} {:>6} {:>5}/{:<5} {:>4}  {:>10.6f}  {:<14} {}\n", printable(reference.name),
             reference.prompt.size(), report.equal, report.tokens, report.ties, report.largest_difference,
             experts, report.agrees() ? "agrees" : "DIFFERS");
  if (!report.agrees()) fmt::print("  {}\n", report.first_difference);
}

}  // namespace

int run_verify(const VerifyOptions& options) {
  const fs::path folder = resolve_model_folder(options.serving.model);
  const Reference reference =
      Reference::read(reference_path(options, folder), read_file(folder / "config.json"));
  const deepseek::ModelConfig config = read_model_config(folder);
  size_t longest = 0;
  for (const ReferenceCase& each : reference.cases) {
    expect_fits(each, config);  // before the weights are loaded
    longest = std::max(longest, each.prompt.size() + each.tokens.size());
  }
  ServingOptions serving_options = options.serving;
  serving_options.chunk_tokens = static_cast<int64_t>(longest);
  Serving serving(serving_options, static_cast<int64_t>(longest));
  if (!options.json)
    fmt::print(
        "{}, reference by {}\ntolerance {} of a log probability\n\n{:<20} {:>6} {:>11} {:>4}  {:>10}  "
        "{:<14}\n",
        printable(reference.model), printable(reference.made_by), reference.tolerance, "case", "prompt",
        "equal", "ties", "difference", "experts");
  nlohmann::ordered_json cases = nlohmann::ordered_json::array();
  size_t agreeing = 0;
  Progress progress("verify", static_cast<int64_t>(reference.cases.size()), "cases");
  for (const ReferenceCase& each : reference.cases) {
    const CaseReport report = verify_case(serving.engine(), each, reference.tolerance);
    agreeing += report.agrees() ? 1 : 0;
    cases.push_back(json_of(each, report));
    if (!options.json) print_case(each, report);
    progress.update(static_cast<int64_t>(cases.size()));
  }
  const bool all = agreeing == reference.cases.size();
  if (options.json)
    print_json(nlohmann::ordered_json{{"verified", all}, {"cases", cases}});
  else
    fmt::print("\n{}: {} of {} cases agree\n", all ? "verified" : "NOT verified", agreeing,
               reference.cases.size());
  return all ? 0 : 1;
}

}  // namespace moray
