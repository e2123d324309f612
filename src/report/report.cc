#include "report/report.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/markup.h"
#include "report/assets.h"

namespace moray {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// Steps [begin, end) drawn as one point.
struct Bucket {
  size_t begin, end;
};

std::vector<Bucket> thin(size_t steps) {
  const size_t points = std::min(steps, kMaxReportPoints);
  std::vector<Bucket> buckets;
  for (size_t i = 0; i < points; ++i) buckets.push_back({i * steps / points, (i + 1) * steps / points});
  return buckets;
}

enum class Pick { kMean, kMax, kLast };

// One curve: value(step metrics) a bucket, by its mean, its maximum (peaks are the news) or its last; values
// that are not finite count as absent.
Json curve(const RunRecord& run, const std::vector<Bucket>& buckets, Pick pick,
           const std::function<double(const StepMetrics&)>& value) {
  Json points = Json::array();
  for (const Bucket& bucket : buckets) {
    double sum = 0, most = -std::numeric_limits<double>::infinity(), last = kNaN;
    size_t count = 0;
    for (size_t i = bucket.begin; i < bucket.end; ++i) {
      const double v = value(run.metrics[i]);
      if (!std::isfinite(v)) continue;
      sum += v;
      most = std::max(most, v);
      last = v;
      ++count;
    }
    const double point = pick == Pick::kMean  ? sum / static_cast<double>(count)
                         : pick == Pick::kMax ? most
                                              : last;
    points.push_back(count > 0 ? Json(point) : Json(nullptr));
  }
  return points;
}

double at_or_nan(const std::vector<double>& values, size_t i) {
  return i < values.size() ? values[i] : kNaN;
}

std::string base64(std::string_view bytes) {
  constexpr const char* kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    for (size_t j = 0; j < 3; ++j)
      group = group << 8 | (i + j < bytes.size() ? static_cast<uint8_t>(bytes[i + j]) : 0u);
    for (size_t j = 0; j < 4; ++j)
      out.push_back(i + j > bytes.size() ? '=' : kDigits[group >> (18 - 6 * j) & 63]);
  }
  return out;
}

// A load relative to the mean as one byte, by its logarithm: 0 is 2^-3 and less, 255 is 2^3 and more
// (report.js reads it).
char load_byte(double load) {
  constexpr double kLog2Range = 3;
  const double log2_load = load > 0 ? std::clamp(std::log2(load), -kLog2Range, kLog2Range) : -kLog2Range;
  return static_cast<char>(std::lround((log2_load / kLog2Range + 1) / 2 * 255));
}

// The metrics list the main model's MoE layers and then those of the MTP modules, one a depth.
Json moe_layer_names(size_t layers, size_t depths) {
  Json names = Json::array();
  const size_t main = layers - std::min(depths, layers);
  for (size_t l = 0; l < main; ++l) names.push_back(fmt::format("MoE layer {}", l + 1));
  for (size_t d = 0; main + d < layers; ++d)
    names.push_back(depths == 1 ? "MTP layer" : fmt::format("MTP layer {}", d + 1));
  return names;
}

Json expert_load_json(const RunRecord& run) {
  Json steps = Json::array(), layers = Json::array();
  for (const ExpertLoadRow& row : run.expert_load) steps.push_back(row.step);
  const size_t layer_count = run.expert_load.empty() ? 0 : run.expert_load[0].load.size();
  for (size_t layer = 0; layer < layer_count; ++layer) {
    std::string bytes;
    for (const ExpertLoadRow& row : run.expert_load) {
      for (double load : row.load[layer]) bytes.push_back(load_byte(load));
    }
    layers.push_back({{"experts", run.expert_load[0].load[layer].size()}, {"load", base64(bytes)}});
  }
  return {{"step", steps}, {"layers", layers}};
}

Json run_json(const RunRecord& run) {
  const std::vector<Bucket> buckets = thin(run.metrics.size());
  size_t depths = 0, layers = 0;
  int64_t peak_memory_bytes = 0, skipped_steps = 0;
  for (const StepMetrics& m : run.metrics) {
    depths = std::max(depths, m.mtp_loss.size());
    layers = std::max(layers, m.balance.size());
    peak_memory_bytes = std::max(peak_memory_bytes, m.peak_memory_bytes);
    skipped_steps = std::max(skipped_steps, m.skipped_steps);
  }
  const auto add = [&](Pick pick, const std::function<double(const StepMetrics&)>& value) {
    return curve(run, buckets, pick, value);
  };
  Json steps = Json::array(), tokens = Json::array();
  for (const Bucket& bucket : buckets) {
    steps.push_back(run.metrics[bucket.end - 1].step);
    tokens.push_back(run.metrics[bucket.end - 1].tokens);
  }
  Json json = {{"name", run.name}, {"step", steps}, {"tokens", tokens}};
  json["loss"] = add(Pick::kMean, [](const StepMetrics& m) { return m.loss; });
  json["validation_loss"] =
      add(Pick::kLast, [](const StepMetrics& m) { return m.validation_loss.value_or(kNaN); });
  json["mtp_loss"] = Json::array();
  for (size_t d = 0; d < depths; ++d) {
    json["mtp_loss"].push_back(
        add(Pick::kMean, [d](const StepMetrics& m) { return at_or_nan(m.mtp_loss, d); }));
  }
  json["moe_layers"] = moe_layer_names(layers, depths);
  json["balance"] = Json::array();
  for (size_t l = 0; l < layers; ++l) {
    json["balance"].push_back(
        add(Pick::kMean, [l](const StepMetrics& m) { return at_or_nan(m.balance, l); }));
  }
  json["learning_rate"] = add(Pick::kLast, [](const StepMetrics& m) { return m.learning_rate; });
  json["grad_norm"] = add(Pick::kMax, [](const StepMetrics& m) { return m.grad_norm; });
  json["tokens_per_second"] = add(Pick::kMean, [](const StepMetrics& m) { return m.tokens_per_second; });
  json["peak_memory_bytes"] = peak_memory_bytes;
  json["skipped_steps"] = skipped_steps;
  json["expert_load"] = expert_load_json(run);
  json["recipe"] = run.recipe;
  json["evaluation"] = run.evaluation ? Json::parse(*run.evaluation) : Json(nullptr);
  return json;
}

// JSON that may stand inside a <script> element: no '<' ends it or opens a comment.
std::string json_for_script(const Json& json) {
  std::string out;
  for (char c : json.dump(-1, ' ', false, Json::error_handler_t::replace)) {
    if (c == '<') {
      out += "\\u003c";
    } else {
      out.push_back(c);
    }
  }
  return out;
}

// A script or style of ours: the browser must not look for its source map beside the page.
std::string without_source_map(std::string_view asset) {
  return std::string(asset.substr(0, asset.find("# sourceMappingURL=")));
}

std::string title_of(const std::vector<RunRecord>& runs) {
  std::string title;
  for (const RunRecord& run : runs) title += (title.empty() ? "" : " · ") + run.name;
  return title;
}

void require_equal_layers(const std::vector<ExpertLoadRow>& rows, const fs::path& file) {
  for (const ExpertLoadRow& row : rows) {
    bool equal = row.load.size() == rows[0].load.size();
    for (size_t l = 0; equal && l < row.load.size(); ++l)
      equal = row.load[l].size() == rows[0].load[l].size();
    if (!equal)
      fail("{}: step {} has other layers or experts than step {}", file.string(), row.step, rows[0].step);
  }
}

}  // namespace

RunRecord read_run(const fs::path& run_folder) {
  RunRecord run;
  const fs::path folder = fs::weakly_canonical(run_folder);
  run.name = folder.filename().string();
  run.metrics = read_metrics(folder / "metrics.jsonl");
  if (const fs::path file = folder / "expert_load.jsonl"; fs::exists(file)) {
    run.expert_load = read_expert_load(file);
    require_equal_layers(run.expert_load, file);
  }
  if (const fs::path file = folder / "recipe.toml"; fs::exists(file)) run.recipe = read_file(file);
  if (const fs::path file = folder / "evaluation.json"; fs::exists(file)) {
    run.evaluation = read_file(file);
    if (!Json::parse(*run.evaluation, nullptr, false).is_object())
      fail("{}: not a JSON object", file.string());
  }
  return run;
}

std::string report_html(const std::vector<RunRecord>& runs) {
  MORAY_CHECK(!runs.empty());
  const std::string title = title_of(runs);
  Json data = {{"title", title}, {"runs", Json::array()}};
  for (const RunRecord& run : runs) data["runs"].push_back(run_json(run));
  std::string html = "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n";
  html += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n";
  // Nothing is fetched, whatever the page holds.
  html +=
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; "
      "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n";
  html += fmt::format("<title>{} – moray</title>\n", escape_markup(title));
  html +=
      fmt::format("<style>\n{}*/\n{}</style>\n", without_source_map(assets::dygraph_css), assets::report_css);
  html +=
      "<body>\n<main id=\"page\"><noscript>This report draws its charts with JavaScript.</noscript></main>\n";
  html += fmt::format("<script type=\"application/json\" id=\"data\">{}</script>\n", json_for_script(data));
  html += fmt::format("<script>{}</script>\n", without_source_map(assets::dygraph_js));
  html +=
      fmt::format("<script>{}</script>\n<script>{}</script>\n", assets::synchronizer_js, assets::report_js);
  return html;
}

void write_report(const std::vector<fs::path>& run_folders, const fs::path& output) {
  std::vector<RunRecord> runs;
  for (const fs::path& folder : run_folders) runs.push_back(read_run(folder));
  write_file_atomically(output, report_html(runs));
}

}  // namespace moray
