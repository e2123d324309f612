// How unevenly tokens fall on experts, and what that costs the slowest rank.
#pragma once

#include <vector>

#include "plan/phases.h"

namespace moray::plan {

// From a distribution: the load of one expert within one sequence has standard deviation
// `sequence_deviation`, relative to its mean (1: an expert sees a sequence or hardly does; documents have
// topics). Sequences of an expert group and experts of a rank are taken as independent; the result is the
// expected maximum over ranks (nodes). 0 gives balance.
Imbalance imbalance_from_distribution(const deepseek::ModelConfig& model, const Layout& layout,
                                      const Cluster& cluster, double sequence_deviation);

// From recorded loads, [row][MoE layer][expert] relative to the layer's mean (report/metrics.h): experts in
// blocks on ranks and nodes, the greatest, averaged over rows and layers. Throws Error (`where` names the
// file) when there are none or their number of experts does not fit the layout.
Imbalance imbalance_from_loads(const std::vector<std::vector<std::vector<double>>>& loads,
                               const Layout& layout, const Cluster& cluster, const std::string& where);

// Expected greatest of n standard normal numbers (Blom's approximation).
double expected_maximum(double n);

}  // namespace moray::plan
