#include "plan/trace_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <vector>

#include "base/error.h"

namespace moray::plan {

namespace {
constexpr double kMsPerUs = 1e-3;

struct Edge {
  double time_us;
  size_t kernel;
  bool start;
};

// Every start and end in order of time; ends before starts, so that kernels back to back do not overlap.
std::vector<Edge> edges_of(const Trace& trace) {
  std::vector<Edge> edges;
  edges.reserve(2 * trace.kernels.size());
  for (size_t i = 0; i < trace.kernels.size(); ++i) {
    const TraceKernel& kernel = trace.kernels[i];
    if (kernel.duration_us <= 0) continue;
    edges.push_back({kernel.start_us, i, true});
    edges.push_back({kernel.start_us + kernel.duration_us, i, false});
  }
  std::stable_sort(edges.begin(), edges.end(), [](const Edge& a, const Edge& b) {
    return a.time_us != b.time_us ? a.time_us < b.time_us : a.start < b.start;
  });
  return edges;
}

// Sweeps over time with the number of running kernels of each class.
void sweep(const Trace& trace, TraceReport& report) {
  std::array<int64_t, kTraceClasses> running{};
  int64_t computing = 0, communicating = 0;
  double now = 0;
  for (const Edge& edge : edges_of(trace)) {
    const double passed_ms = (edge.time_us - now) * kMsPerUs;
    now = edge.time_us;
    if (computing > 0) report.compute_busy_ms += passed_ms;
    if (communicating > 0) report.communication_busy_ms += passed_ms;
    if (computing > 0 && communicating > 0) report.hidden_ms += passed_ms;
    if (computing == 0 && communicating > 0) report.exposed_ms += passed_ms;
    if (computing == 0 && communicating == 0) report.idle_ms += passed_ms;
    for (int c = 0; c < kTraceClasses && computing > 0; ++c)
      if (!is_communication(static_cast<TraceClass>(c)))
        report.classes[c].share_ms +=
            passed_ms * static_cast<double>(running[c]) / static_cast<double>(computing);

    const TraceClass kind = trace.kernels[edge.kernel].kind;
    const int64_t step = edge.start ? 1 : -1;
    running[static_cast<size_t>(kind)] += step;
    (is_communication(kind) ? communicating : computing) += step;
  }
}

bool is_gemm(TraceClass kind) {
  return kind == TraceClass::dense_gemm || kind == TraceClass::grouped_gemm || kind == TraceClass::wgrad_gemm;
}

// The grid size that holds most of the kernels' time: persistent kernels launch one block an SM.
template <class Select>
int64_t usual_grid(const Trace& trace, Select&& select) {
  std::map<int64_t, double> time;
  for (const TraceKernel& kernel : trace.kernels)
    if (kernel.blocks > 0 && select(kernel.kind)) time[kernel.blocks] += kernel.duration_us;
  const auto longest = std::max_element(time.begin(), time.end(),
                                        [](const auto& a, const auto& b) { return a.second < b.second; });
  return longest == time.end() ? 0 : longest->first;
}
}  // namespace

TraceReport summarize(const Trace& trace) {
  TraceReport report;
  report.device = trace.device;
  for (const TraceKernel& kernel : trace.kernels) {
    const double ms = kernel.duration_us * kMsPerUs;
    ClassTime& time = report.classes[static_cast<size_t>(kernel.kind)];
    time.shortest_ms = time.launches == 0 ? ms : std::min(time.shortest_ms, ms);
    time.longest_ms = std::max(time.longest_ms, ms);
    ++time.launches;
    time.kernel_ms += ms;
    if (is_communication(kernel.kind)) time.share_ms += ms;
    report.streams[kernel.stream][static_cast<size_t>(kernel.kind)] += ms;
    report.span_ms = std::max(report.span_ms, (kernel.start_us + kernel.duration_us) * kMsPerUs);
  }
  sweep(trace, report);
  report.compute_sms = usual_grid(trace, is_gemm);
  report.communication_sms = usual_grid(
      trace, [](TraceClass kind) { return kind == TraceClass::dispatch || kind == TraceClass::combine; });
  return report;
}

Trace first_launches(const Trace& trace, double share) {
  MORAY_CHECK(share > 0 && share <= 1);
  std::array<double, kTraceClasses> launches{}, seen{};
  for (const TraceKernel& kernel : trace.kernels) ++launches[static_cast<size_t>(kernel.kind)];
  Trace part{{}, trace.device, trace.sms};
  std::copy_if(trace.kernels.begin(), trace.kernels.end(), std::back_inserter(part.kernels),
               [&](const TraceKernel& kernel) {
                 const size_t c = static_cast<size_t>(kernel.kind);
                 return seen[c]++ < std::round(share * launches[c]);
               });
  return part;
}

std::string trace_table(const TraceReport& report) {
  std::string out;
  auto to = std::back_inserter(out);
  fmt::format_to(to, "{}: {:.1f} ms from the first kernel to the last\n\n",
                 report.device.empty() ? "GPU" : report.device, report.span_ms);
  fmt::format_to(to, "{:<20} {:>8} {:>11} {:>10} {:>12} {:>11}", "kernels", "launches", "kernel ms",
                 "share ms", "shortest ms", "longest ms");
  for (const auto& [stream, times] : report.streams)
    fmt::format_to(to, " {:>10}", fmt::format("stream {}", stream));
  out += "\n";
  for (int c = 0; c < kTraceClasses; ++c) {
    const ClassTime& time = report.classes[static_cast<size_t>(c)];
    if (time.launches == 0) continue;
    fmt::format_to(to, "{:<20} {:>8} {:>11.3f} {:>10.3f} {:>12.3f} {:>11.3f}",
                   name(static_cast<TraceClass>(c)), time.launches, time.kernel_ms, time.share_ms,
                   time.shortest_ms, time.longest_ms);
    for (const auto& [stream, times] : report.streams)
      fmt::format_to(to, " {:>10.3f}", times[static_cast<size_t>(c)]);
    out += "\n";
  }
  const double quantize = report.of(TraceClass::cast).kernel_ms + report.of(TraceClass::transpose).kernel_ms;
  fmt::format_to(to, "\nquantize, cast and transpose together  {:8.1f} ms\n", quantize);
  fmt::format_to(to, "compute busy                           {:8.1f} ms\n", report.compute_busy_ms);
  fmt::format_to(to, "communication busy                     {:8.1f} ms\n", report.communication_busy_ms);
  fmt::format_to(to, "  of it hidden under compute           {:8.1f} ms ({:.1f}%)\n", report.hidden_ms,
                 100 * report.hidden_share());
  fmt::format_to(to, "  exposed                              {:8.1f} ms\n", report.exposed_ms);
  fmt::format_to(to, "idle                                   {:8.1f} ms\n", report.idle_ms);
  if (report.compute_sms > 0 && report.communication_sms > 0)
    fmt::format_to(to, "thread blocks: GEMMs {}, communication {}\n", report.compute_sms,
                   report.communication_sms);
  return out;
}

}  // namespace moray::plan
