// Where the time of a trace went: by class of kernel, by stream, and what communication hid.
#pragma once

#include <array>
#include <map>
#include <string>

#include "plan/trace.h"

namespace moray::plan {

struct ClassTime {
  int64_t launches = 0;
  double kernel_ms = 0;  // sum of the kernels' durations
  // The same with every instant that several computing kernels share cut evenly among them. Over the
  // computing classes it adds up to the time in which anything computed. Communication: as kernel_ms.
  double share_ms = 0;
  double shortest_ms = 0, longest_ms = 0;
};

using ClassTimes = std::array<ClassTime, kTraceClasses>;

struct TraceReport {
  std::string device;
  double span_ms = 0;                // first start to last end
  double compute_busy_ms = 0;        // at least one computing kernel
  double communication_busy_ms = 0;  // at least one communicating kernel
  double hidden_ms = 0;              // both
  double exposed_ms = 0;             // communication alone
  double idle_ms = 0;                // neither
  ClassTimes classes{};
  std::map<int64_t, std::array<double, kTraceClasses>> streams;  // kernel time in ms
  int64_t compute_sms = 0, communication_sms = 0;  // the grids most time is spent with; 0: not recorded

  const ClassTime& of(TraceClass kind) const { return classes[static_cast<size_t>(kind)]; }
  double hidden_share() const { return communication_busy_ms > 0 ? hidden_ms / communication_busy_ms : 0; }
};

TraceReport summarize(const Trace& trace);

// The trace's launches before a share of each class's launches, in order of start: half a trace to calibrate
// on, so that the other half can be predicted. 0 < share <= 1.
Trace first_launches(const Trace& trace, double share);

std::string trace_table(const TraceReport& report);

}  // namespace moray::plan
