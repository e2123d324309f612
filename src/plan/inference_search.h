// Deployments under limits of latency, ranked by what a node yields.
#pragma once

#include <string>
#include <vector>

#include "plan/inference.h"

namespace moray::plan {

struct ServingLimits {
  double first_token_seconds = 5;
  double token_seconds = 0.05;
  int64_t most_gpus = 320;  // of one unit

  // [limits]; absent keys keep the values above. Error for a value out of range.
  static ServingLimits from_config(Config& config);
};

struct ServingChoice {
  Deployment deployment;
  ServingEstimate estimate;  // of no meaning when excluded
  std::string excluded;      // why, in a few words; "": it holds the limits
};

// Over units of 1, 2, 4, ... nodes (and the base's own), tensor parallelism, one or two micro-batches, and
// the size of a pass or a batch: the largest that memory and the limit allow. Everything else is the base's,
// except that redundant experts are filled up to whole experts a GPU. Best first, the excluded after them.
std::vector<ServingChoice> search_prefill(const deepseek::ModelConfig& model, const Deployment& base,
                                          const Cluster& cluster, const KernelRates& rates,
                                          const ServingLimits& limits, const ServingRates& serving = {});
std::vector<ServingChoice> search_decode(const deepseek::ModelConfig& model, const Deployment& base,
                                         const Cluster& cluster, const KernelRates& rates,
                                         const ServingLimits& limits, const ServingRates& serving = {});

// The batch of `base` set to the largest that memory and the limit allow; nothing else is changed. Error
// saying which of the two the smallest batch breaks.
Deployment largest_decode_batch(const deepseek::ModelConfig& model, const Deployment& base,
                                const Cluster& cluster, const KernelRates& rates, const ServingLimits& limits,
                                const ServingRates& serving = {});

// "EP144 TP1 2 micro-batches, 32 redundant".
std::string deployment_name(const Deployment& deployment);

}  // namespace moray::plan
