#include "apps/plan_calibrate_command.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "apps/output.h"
#include "apps/plan_model.h"
#include "base/error.h"
#include "base/files.h"
#include "data/byte_stream.h"
#include "plan/chunk_pair_report.h"
#include "plan/trace_rates.h"

namespace moray {

namespace {
using namespace plan;

constexpr double kHalf = 0.5;
constexpr int64_t kMaxLayers = 10'000, kMaxTokens = int64_t{1} << 24;

std::string read_trace(const std::string& path) {
  const auto stream = ByteStream::open(path);
  std::string text, piece(size_t{1} << 20, '\0');
  while (const size_t size = stream->read(piece)) {
    if (text.size() + size > kMaxTraceBytes) fail("{}: more than {} bytes of JSON", path, kMaxTraceBytes);
    text.append(piece, 0, size);
  }
  return text;
}

void check_range(const char* option, int64_t value, int64_t most) {
  if (value < 1 || value > most) fail("plan calibrate: {} is {}, expected 1 to {}", option, value, most);
}

nlohmann::ordered_json calibration_json(const TraceReport& report, const KernelRates& rates,
                                        const std::vector<PairComparison>& comparisons) {
  nlohmann::ordered_json classes, efficiency, pairs = nlohmann::ordered_json::array();
  for (int c = 0; c < kTraceClasses; ++c) {
    const ClassTime& time = report.classes[static_cast<size_t>(c)];
    classes[name(static_cast<TraceClass>(c))] = {
        {"launches", time.launches}, {"kernel_ms", time.kernel_ms}, {"share_ms", time.share_ms}};
  }
  for (size_t i = 0; i < kKernelClasses; ++i)
    efficiency[kernel_class_name(static_cast<KernelClass>(i))] = rates.efficiency[i];
  for (const PairComparison& comparison : comparisons) pairs.push_back(comparison_json(comparison));
  return {{"device", report.device},
          {"span_ms", report.span_ms},
          {"compute_busy_ms", report.compute_busy_ms},
          {"communication_busy_ms", report.communication_busy_ms},
          {"hidden_ms", report.hidden_ms},
          {"exposed_ms", report.exposed_ms},
          {"idle_ms", report.idle_ms},
          {"classes", classes},
          {"efficiency", efficiency},
          {"pairs", pairs}};
}
}  // namespace

int run_plan_calibrate(const PlanCalibrateOptions& options) {
  check_range("--layers", options.layers, kMaxLayers);
  check_range("--tokens", options.tokens, kMaxTokens);
  const deepseek::ModelConfig model = read_plan_model(options.model);
  const Cluster cluster = read_cluster(options.cluster);
  Layout layout;
  layout.expert = layout.data = options.expert_parallel;
  layout.sequence_length = options.tokens;
  layout.pipeline = 1;
  layout.schedule = ScheduleKind::kOneFOneB;
  layout.micro_batches = 1;
  if (const std::string why = layout.objection(model, cluster); !why.empty()) fail("plan calibrate: {}", why);

  const Trace trace = parse_trace(read_trace(options.trace), options.trace);
  const TraceReport report = summarize(trace), half = summarize(first_launches(trace, kHalf));
  const double sms = static_cast<double>(report.communication_sms);
  const std::vector<LayerWork> layers(static_cast<size_t>(options.layers),
                                      layer_work(model, layout, cluster, true, Imbalance{}));
  const Work work = pair_work(layers);
  const auto rates_of = [&](const TraceReport& part, double share, TimeBasis basis, const char* source) {
    try {
      return rates_from_trace(part, work.scaled(share), cluster, basis, source);
    } catch (const Error& error) {
      fail("{}: {}", options.trace, error.what());
    }
  };
  const KernelRates durations = rates_of(report, 1, TimeBasis::duration, "kernel durations alone");
  // What the trace's second half adds is news to rates from its first.
  const KernelRates from_half = rates_of(half, kHalf, TimeBasis::duration, "durations of the first half");
  const KernelRates rates = rates_of(report, 1, TimeBasis::share, "durations, shared where kernels overlap");
  const KernelRates assumed = KernelRates::assumed();
  std::vector<PairComparison> comparisons;
  for (const KernelRates* source : {&durations, &from_half, &rates, &assumed})
    comparisons.push_back(compare_pair(report, layers, Machine{cluster, *source, sms}));

  if (!options.output.empty()) {
    KernelRates named = rates;
    named.source = fs::path(options.trace).filename().string();
    write_file_atomically(options.output, rates_toml(named));
  }
  if (options.json) {
    print_json(calibration_json(report, rates, comparisons), 2);
    return 0;
  }
  fmt::print("{}\n{}\n", trace_table(report), rates_table(report, layers, Machine{cluster, rates, sms}));
  fmt::print("the pair, predicted\n{}\n", pair_table(comparisons[0].prediction));
  for (const PairComparison& comparison : comparisons) fmt::print("{}\n", comparison_table(comparison));
  return 0;
}

}  // namespace moray
