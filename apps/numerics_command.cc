#include "apps/numerics_command.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "apps/model_argument.h"
#include "apps/output.h"
#include "base/error.h"
#include "base/files.h"
#include "data/dataset.h"
#include "numerics/gradients.h"
#include "numerics/quantization.h"
#include "numerics/tensors.h"
#include "report/progress.h"

namespace moray {

namespace {

using numerics::ProductStudy;
using Json = nlohmann::ordered_json;

void check(const ProductStudy& study) {
  for (int bits : study.bits)
    if (bits < 4 || bits > 24) fail("--bits: must be between 4 and 24, got {}", bits);
  for (int64_t promotion : study.promotions)
    if (promotion < 0 || promotion > ProductStudy::kMostK || promotion % TensorCore::kGroup != 0)
      fail("--promote-every: must be 0 or a multiple of {} up to {}, got {}", TensorCore::kGroup,
           ProductStudy::kMostK, promotion);
  constexpr int64_t kMostRows = 1024;
  if (study.rows < 1 || study.rows > kMostRows)
    fail("--rows: must be between 1 and {}, got {}", kMostRows, study.rows);
}

Json to_json(const ProductStudy& study, const std::vector<numerics::ProductError>& errors) {
  Json list = Json::array();
  for (const numerics::ProductError& error : errors)
    list.push_back({{"matrices", numerics::distribution_name(error.distribution)},
                    {"accumulator", error.bits == 0 ? "fp32" : "tensor core"},
                    {"bits", error.bits == 0 ? 24 : error.bits},
                    {"promote_every", error.promotion},
                    {"k", error.k},
                    {"max_error", error.max_error},
                    {"rms_error", error.rms_error}});
  return {{"rows", study.rows},
          {"rounding", study.round ? "nearest" : "truncate"},
          {"seed", study.seed},
          {"errors", std::move(list)}};
}

Json to_json(const numerics::TensorLoss& loss) {
  Json json{{"name", loss.name},           {"rows", loss.rows},
            {"columns", loss.columns},     {"rms", loss.rms()},
            {"greatest", loss.greatest},   {"greatest_at", {loss.greatest_row, loss.greatest_column}},
            {"beyond_6_rms", loss.far_out}};
  for (numerics::Sharing sharing : numerics::kSharings)
    for (ScaleFormat format : numerics::kScaleFormats) {
      const numerics::QuantizationLoss& of = loss.loss(sharing, format);
      json[numerics::sharing_name(sharing)][format == ScaleFormat::fp32 ? "fp32" : "power_of_two"] = {
          {"relative_rms_error", loss.relative_error(sharing, format)},
          {"greatest_error", of.greatest},
          {"zeroed", of.zeroed}};
    }
  return json;
}

Json to_json(const numerics::ErrorSummary& errors) {
  return {{"greatest", errors.greatest},
          {"greatest_step", errors.greatest_step},
          {"greatest_by_third", errors.greatest_by_third},
          {"rms", errors.rms},
          {"mean", errors.mean},
          {"last", errors.last},
          {"steps", errors.steps},
          {"beyond_limit", errors.beyond_limit}};
}

Json to_json(const numerics::RunComparison& run) {
  Json json{{"name", run.name}, {"loss", to_json(run.loss)}, {"mtp_loss", Json::array()}};
  for (const numerics::ErrorSummary& errors : run.mtp_loss) json["mtp_loss"].push_back(to_json(errors));
  json["validation_error"] = run.validation_error ? Json(*run.validation_error) : Json(nullptr);
  return json;
}

Json to_json(const numerics::Comparison& comparison) {
  return {{"baseline", comparison.baseline},
          {"from_step", comparison.from_step},
          {"last_step", comparison.last_step},
          {"ema_decay", comparison.options.ema_decay},
          {"limit", comparison.options.limit},
          {"run", to_json(comparison.run)},
          {"floor", comparison.floor ? to_json(*comparison.floor) : Json(nullptr)}};
}

Json to_json(const numerics::GradientRow& row) {
  const auto angle = [](const std::optional<numerics::GradientAngle>& of) {
    return of ? Json{{"cosine", of->cosine()}, {"relative_length", of->relative_length()}} : Json(nullptr);
  };
  return {{"name", row.name},
          {"runs", angle(row.runs)},
          {"f32_and_baseline", angle(row.baseline_f32)},
          {"f32_and_run", angle(row.run_f32)}};
}

Json to_json(const numerics::GradientComparison& comparison) {
  Json json{{"step", comparison.step}, {"samples", comparison.samples},  {"baseline", comparison.baseline},
            {"run", comparison.run},   {"all", to_json(comparison.all)}, {"layers", Json::array()},
            {"kinds", Json::array()}};
  for (const numerics::GradientRow& row : comparison.layers) json["layers"].push_back(to_json(row));
  for (const numerics::GradientRow& row : comparison.kinds) json["kinds"].push_back(to_json(row));
  return json;
}

Recipe recipe_of_run(const fs::path& run) {
  Config config = Config::read(run / "recipe.toml");
  return Recipe::from_config(config);
}

// With the baseline's dataset, which both trained on.
numerics::GradientComparison compare_gradients(const NumericsCompareOptions& options) {
  if (options.samples < 1) fail("--samples is {}, expected 1 or more", options.samples);
  const Recipe baseline = recipe_of_run(options.baseline), run = recipe_of_run(options.run);
  const auto newest = latest_checkpoint(fs::path(options.baseline) / "checkpoints");
  if (!newest) fail("{}: has no checkpoint, whose weights --gradients needs", options.baseline);
  const Dataset dataset = Dataset::open(baseline.data.dataset, baseline.train.seed);
  const int64_t length = baseline.train.sequence_length;
  const SampleSource source = [&](uint64_t n, std::span<int32_t> tokens, std::span<int32_t> starts) {
    dataset.sample(n, length, static_cast<int64_t>(tokens.size()) - length, tokens, starts);
  };
  Workplace workplace(options.threads);
  return numerics::compare_gradients(workplace.exec, open_checkpoint(*newest), baseline, run, source,
                                     options.samples);
}

}  // namespace

int run_numerics_products(const NumericsProductsOptions& options) {
  ProductStudy study = options.study;
  study.round = options.round;
  check(study);
  ThreadPool pool(resolve_threads(options.threads));
  std::vector<numerics::ProductError> errors;
  {
    Progress progress("products", study.accumulations(), "accumulations");
    errors = numerics::study_products(study, pool, [&](int64_t done) { progress.update(done); });
  }
  if (!options.html.empty()) write_file_atomically(options.html, numerics::products_html(study, errors));
  if (options.json)
    print_json(to_json(study, errors));
  else
    fmt::print("{}", numerics::products_table(study, errors));
  return 0;
}

int run_numerics_tensors(const NumericsTensorsOptions& options) {
  if (options.worst < 0) fail("--worst is {}, expected 0 or more", options.worst);
  const fs::path path = fs::path(options.path).extension() == ".safetensors"
                            ? fs::path(options.path)
                            : resolve_model_folder(options.path);
  ThreadPool pool(resolve_threads(options.threads));
  std::vector<numerics::TensorLoss> losses;
  {
    Progress progress("tensors", numerics::elements_to_study(path), "elements");
    losses = numerics::study_tensors(path, pool, [&](int64_t done) { progress.update(done); });
  }
  if (losses.empty()) fail("{}: holds no floating-point tensor of two dimensions", path.string());
  if (options.json) {
    Json list = Json::array();
    for (const numerics::TensorLoss& loss : losses) list.push_back(to_json(loss));
    print_json(Json{{"path", path.string()}, {"tensors", std::move(list)}});
  } else {
    fmt::print("{}", numerics::tensors_table(losses, static_cast<size_t>(options.worst), options.all));
  }
  return 0;
}

int run_numerics_quantization(const NumericsQuantizationOptions& options) {
  const fs::path metrics = fs::path(options.run) / "metrics.jsonl";
  const std::vector<numerics::QuantizationSummary> classes =
      numerics::summarize_quantization(read_metrics(metrics));
  if (classes.empty())
    fail("{}: no step counted what became codes; train in fp8 with --set run.quantization_interval_steps=100",
         metrics.string());
  if (!options.json) {
    fmt::print("{}", numerics::quantization_table(classes));
    return 0;
  }
  Json list = Json::array();
  for (const numerics::QuantizationSummary& of : classes)
    list.push_back({{"class", of.name},
                    {"steps", of.steps},
                    {"elements", of.elements},
                    {"underflow", of.underflow},
                    {"worst_underflow", of.worst_underflow},
                    {"worst_step", of.worst_step},
                    {"last_underflow", of.last_underflow},
                    {"saturated", of.saturated}});
  print_json(Json{{"run", options.run}, {"classes", std::move(list)}});
  return 0;
}

int run_numerics_compare(const NumericsCompareOptions& options) {
  const numerics::ComparisonOptions& comparison_options = options.comparison;
  if (!(comparison_options.ema_decay >= 0 && comparison_options.ema_decay < 1))
    fail("--ema is {}, expected 0 or more and less than 1", comparison_options.ema_decay);
  if (!(comparison_options.limit > 0)) fail("--limit is {}, expected more than 0", comparison_options.limit);
  const RunRecord baseline = read_run(options.baseline), run = read_run(options.run);
  std::optional<RunRecord> floor;
  if (!options.floor.empty()) floor = read_run(options.floor);
  const numerics::Comparison comparison =
      numerics::compare_runs(baseline, run, floor ? &*floor : nullptr, comparison_options);
  std::optional<numerics::GradientComparison> gradients;
  if (options.gradients) gradients = compare_gradients(options);
  if (!options.html.empty())
    write_file_atomically(
        options.html,
        numerics::comparison_html(comparison, gradients ? numerics::gradients_html(*gradients) : ""));
  if (options.json) {
    Json json = to_json(comparison);
    if (gradients) json["gradients"] = to_json(*gradients);
    print_json(json);
  } else {
    fmt::print("{}", numerics::comparison_table(comparison));
    if (gradients) fmt::print("\n{}", numerics::gradients_table(*gradients));
  }
  return 0;
}

}  // namespace moray
