// Where the time of a step goes: one event an op, with the bytes of its tensors and its floating-point
// operations.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

namespace moray {

struct TraceEvent {
  const char* op;                         // a literal
  double start_seconds = 0, seconds = 0;  // since the tracer began
  double bytes = 0;                       // of all tensors the op was given, each once
  double flops = 0;                       // 0 for ops bound by memory
};

class Tracer {
 public:
  using Clock = std::chrono::steady_clock;

  void record(const char* op, Clock::time_point start, double bytes, double flops);
  const std::vector<TraceEvent>& events() const { return events_; }

  // Op families by their share of the time: calls, milliseconds, GB/s, GFLOP/s; last, what lies between ops.
  std::string table() const;
  // Chrome's trace format, for Perfetto or chrome://tracing.
  std::string chrome_json() const;

 private:
  std::mutex mutex_;
  Clock::time_point begin_ = Clock::now();
  std::vector<TraceEvent> events_;
};

}  // namespace moray
