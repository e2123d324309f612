#include "report/metrics.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/error.h"
#include "base/log.h"

namespace moray {
namespace {

using Json = nlohmann::ordered_json;

std::string metrics_line(const StepMetrics& m) {
  Json json = {{"step", m.step},
               {"tokens", m.tokens},
               {"loss", m.loss},
               {"mtp_loss", m.mtp_loss},
               {"balance_loss", m.balance_loss}};
  if (m.validation_loss) json["validation_loss"] = *m.validation_loss;
  json["balance"] = m.balance;
  json["grad_norm"] = m.grad_norm;
  json["learning_rate"] = m.learning_rate;
  json["tokens_per_second"] = m.tokens_per_second;
  json["peak_memory_bytes"] = m.peak_memory_bytes;
  json["skipped_steps"] = m.skipped_steps;
  for (const QuantizedClass& codes : m.quantization)
    json["quantization"][codes.name] = {
        {"elements", codes.elements}, {"underflow", codes.underflow}, {"saturated", codes.saturated}};
  return json.dump() + '\n';
}

// Four digits are plenty for a picture and keep the file small.
std::string expert_load_line(int64_t step, const std::vector<std::vector<double>>& load) {
  std::string line = fmt::format("{{\"step\":{},\"load\":[", step);
  for (size_t layer = 0; layer < load.size(); ++layer) {
    line += layer ? ",[" : "[";
    for (size_t e = 0; e < load[layer].size(); ++e) {
      line += fmt::format("{}{:.4g}", e ? "," : "", load[layer][e]);
    }
    line += "]";
  }
  return line + "]}\n";
}

double number_or_nan(const Json& json) {
  return json.is_null() ? std::numeric_limits<double>::quiet_NaN() : json.get<double>();
}

std::vector<double> numbers(const Json& json) {
  std::vector<double> values;
  if (!json.is_array()) throw std::runtime_error("an array of numbers is missing");
  for (const Json& value : json) values.push_back(number_or_nan(value));
  return values;
}

// The parsers throw std::exception for any line that is not one of ours.
StepMetrics parse_metrics_line(std::string_view line) {
  const Json json = Json::parse(line);
  StepMetrics m;
  m.step = json.at("step").get<int64_t>();
  m.tokens = json.at("tokens").get<int64_t>();
  m.loss = number_or_nan(json.at("loss"));
  m.mtp_loss = numbers(json.at("mtp_loss"));
  m.balance_loss = number_or_nan(json.at("balance_loss"));
  if (json.contains("validation_loss")) m.validation_loss = number_or_nan(json["validation_loss"]);
  m.balance = numbers(json.at("balance"));
  m.grad_norm = number_or_nan(json.at("grad_norm"));
  m.learning_rate = number_or_nan(json.at("learning_rate"));
  m.tokens_per_second = number_or_nan(json.at("tokens_per_second"));
  m.peak_memory_bytes = json.at("peak_memory_bytes").get<int64_t>();
  m.skipped_steps = json.at("skipped_steps").get<int64_t>();
  if (json.contains("quantization"))
    for (const auto& [name, codes] : json["quantization"].items())
      m.quantization.push_back({name, codes.at("elements").get<int64_t>(),
                                number_or_nan(codes.at("underflow")), number_or_nan(codes.at("saturated"))});
  return m;
}

ExpertLoadRow parse_expert_load_line(std::string_view line) {
  const Json json = Json::parse(line);
  ExpertLoadRow row;
  row.step = json.at("step").get<int64_t>();
  const Json& load = json.at("load");
  if (!load.is_array()) throw std::runtime_error("\"load\" is no array");
  for (const Json& layer : load) row.load.push_back(numbers(layer));
  return row;
}

void for_each_line(std::string_view text,
                   const std::function<void(std::string_view line, bool complete)>& visit) {
  while (!text.empty()) {
    const size_t end = text.find('\n');
    const bool complete = end != std::string_view::npos;
    visit(text.substr(0, end), complete);
    text.remove_prefix(complete ? end + 1 : text.size());
  }
}

template <class Row, class Parse>
std::vector<Row> read_lines(const fs::path& file, Parse parse) {
  const std::string text = read_file(file, kAnySize);
  std::vector<Row> rows;
  int64_t line_number = 0;
  for_each_line(text, [&](std::string_view line, bool complete) {
    ++line_number;
    if (!complete) return;
    try {
      rows.push_back(parse(line));
    } catch (const std::exception& error) {
      fail("{}:{}: not a line of metrics ({})", file.string(), line_number, error.what());
    }
  });
  return rows;
}

// The step of a line, or -1 when the line is broken.
int64_t step_of(std::string_view line) {
  const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("step") || !json["step"].is_number_integer()) return -1;
  return json["step"].get<int64_t>();
}

std::string lines_up_to(std::string_view text, int64_t last_step, int64_t& broken_lines) {
  std::string kept;
  int64_t previous = 0;
  for_each_line(text, [&](std::string_view line, bool complete) {
    const int64_t step = complete ? step_of(line) : -1;
    if (complete && step < 0) ++broken_lines;
    if (step <= previous || step > last_step) return;
    previous = step;
    kept.append(line).push_back('\n');
  });
  return kept;
}

// The path of a run's file, cut back to `resumed_step`.
fs::path prepared_file(const fs::path& run_folder, const char* name, int64_t resumed_step) {
  std::error_code error;
  fs::create_directories(run_folder, error);
  if (error) fail("{}: cannot create the run folder: {}", run_folder.string(), error.message());
  const fs::path path = run_folder / name;
  if (fs::is_regular_file(path)) {
    const std::string text = read_file(path, kAnySize);
    int64_t broken_lines = 0;
    const std::string kept = lines_up_to(text, resumed_step, broken_lines);
    if (broken_lines > 0)
      log::warning("{}: dropped {} lines that cannot be read", path.string(), broken_lines);
    if (kept != text) write_file_atomically(path, kept);
  }
  return path;
}

}  // namespace

void StepMetrics::add_moe_layer(std::span<const int64_t> tokens_of_expert) {
  const double total =
      static_cast<double>(std::accumulate(tokens_of_expert.begin(), tokens_of_expert.end(), int64_t{0}));
  const double mean = total / static_cast<double>(tokens_of_expert.size());
  std::vector<double> load;
  for (int64_t count : tokens_of_expert) load.push_back(mean > 0 ? static_cast<double>(count) / mean : 1.0);
  balance.push_back(load.empty() ? 1.0 : *std::max_element(load.begin(), load.end()));
  expert_load.push_back(std::move(load));
}

std::vector<StepMetrics> read_metrics(const fs::path& file) {
  return read_lines<StepMetrics>(file, parse_metrics_line);
}

std::vector<ExpertLoadRow> read_expert_load(const fs::path& file) {
  return read_lines<ExpertLoadRow>(file, parse_expert_load_line);
}

MetricsWriter::MetricsWriter(const fs::path& run_folder, int64_t resumed_step, int64_t total_steps)
    : metrics_(prepared_file(run_folder, "metrics.jsonl", resumed_step)),
      expert_load_(prepared_file(run_folder, "expert_load.jsonl", resumed_step)),
      expert_load_interval_(
          std::max<int64_t>(1, (total_steps + kMaxExpertLoadRows - 1) / kMaxExpertLoadRows)) {}

void MetricsWriter::write(const StepMetrics& metrics) {
  metrics_.append(metrics_line(metrics));
  if (metrics.step % expert_load_interval_ == 0 && !metrics.expert_load.empty()) {
    expert_load_.append(expert_load_line(metrics.step, metrics.expert_load));
  }
}

void MetricsWriter::sync() {
  metrics_.sync();
  expert_load_.sync();
}

}  // namespace moray
