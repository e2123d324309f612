// Kernel rates from a trace: the work a layout gives each class of kernel over the time the trace spends in
// it.
#pragma once

#include <string>

#include "plan/kernel_rates.h"
#include "plan/phases.h"
#include "plan/trace_report.h"

namespace moray::plan {

// All passes of these layers, forward, input and weight gradients.
Work pair_work(const std::vector<LayerWork>& layers);
// Their dispatches and combines in both directions.
Traffic dispatch_traffic(const std::vector<LayerWork>& layers);
Traffic combine_traffic(const std::vector<LayerWork>& layers);

// Which time of a class counts. Durations know nothing of when kernels ran; those of kernels that ran side by
// side count the SMs twice. Shares do not, but take from the trace what ran side by side.
enum class TimeBasis { duration, share };

// The trace's time in a class. What the trace calls other counts as elementwise.
double class_ms(const TraceReport& report, KernelClass kernel_class, TimeBasis basis);

// Shares of the cluster's peaks that the trace's kernels reach on `work`; peaks of FLOP classes without the
// SMs that communicate. Links keep the efficiencies of KernelRates::assumed(): communicating kernels also
// wait for other ranks, so that their durations say little of the links. Throws Error when the cluster lacks
// FP8 or the trace has no kernel of a class with work, naming the class.
KernelRates rates_from_trace(const TraceReport& report, const Work& work, const Cluster& cluster,
                             TimeBasis basis, const std::string& source);

// Rates by class, of the machine; the trace's time by shares; what dispatch and combine reach on the links.
std::string rates_table(const TraceReport& report, const std::vector<LayerWork>& layers,
                        const Machine& machine);

}  // namespace moray::plan
