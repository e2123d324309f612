#include "runtime/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string_view>

namespace moray {

void Tracer::record(const char* op, Clock::time_point start, double bytes, double flops) {
  const Clock::time_point end = Clock::now();
  const auto seconds = [](Clock::duration duration) {
    return std::chrono::duration<double>(duration).count();
  };
  std::lock_guard lock(mutex_);
  events_.push_back({op, seconds(start - begin_), seconds(end - start), bytes, flops});
}

std::string Tracer::table() const {
  struct Family {
    int64_t calls = 0;
    double seconds = 0, bytes = 0, flops = 0;
  };
  std::map<std::string_view, Family> families;
  double in_ops = 0, begin = 0, end = 0;
  for (const TraceEvent& event : events_) {
    Family& family = families[event.op];
    ++family.calls;
    family.seconds += event.seconds;
    family.bytes += event.bytes;
    family.flops += event.flops;
    in_ops += event.seconds;
    begin = &event == events_.data() ? event.start_seconds : std::min(begin, event.start_seconds);
    end = std::max(end, event.start_seconds + event.seconds);
  }
  std::vector<std::pair<std::string_view, Family>> order(families.begin(), families.end());
  std::stable_sort(order.begin(), order.end(),
                   [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  const double whole = end - begin;
  std::string text =
      fmt::format("{:<32} {:>7} {:>10} {:>7} {:>8} {:>9}\n", "op", "calls", "ms", "share", "GB/s", "GFLOP/s");
  for (const auto& [op, family] : order)
    text +=
        fmt::format("{:<32} {:>7} {:>10.2f} {:>6.1f}% {:>8.1f} {:>9}\n", op, family.calls,
                    1e3 * family.seconds, 100 * family.seconds / whole, family.bytes / family.seconds / 1e9,
                    family.flops > 0 ? fmt::format("{:.1f}", family.flops / family.seconds / 1e9) : "-");
  const double between = std::max(0.0, whole - in_ops);
  return text + fmt::format("{:<32} {:>7} {:>10.2f} {:>6.1f}%\n", "between ops", "", 1e3 * between,
                            whole > 0 ? 100 * between / whole : 0.0);
}

std::string Tracer::chrome_json() const {
  std::string text = "{\"displayTimeUnit\": \"ms\", \"traceEvents\": [";
  const char* separator = "\n";
  for (const TraceEvent& event : events_) {
    text += fmt::format(
        "{}{{\"name\": \"{}\", \"ph\": \"X\", \"pid\": 0, \"tid\": 0, \"ts\": {:.3f}, \"dur\": {:.3f}, "
        "\"args\": {{\"bytes\": {:.0f}, \"flops\": {:.0f}}}}}",
        separator, event.op, 1e6 * event.start_seconds, 1e6 * event.seconds, event.bytes, event.flops);
    separator = ",\n";
  }
  return text + "\n]}\n";
}

}  // namespace moray
