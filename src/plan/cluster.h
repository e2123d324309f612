// A cluster as the planner sees it: one GPU, its links, its failures and its price. Read from
// clusters/*.toml, where every figure says where it comes from.
#pragma once

#include <string>
#include <vector>

#include "base/files.h"

namespace moray::plan {

enum class Source { datasheet, measured, assumed };

struct Figure {
  double value = 0;
  Source source = Source::assumed;
};

struct Cluster {
  std::string name;  // of the GPU
  Figure gpus_per_node;
  Figure flops_bf16;  // dense tensor-core peak, FLOP/s; a multiply-add is two
  Figure flops_fp8;   // 0: the GPU has none
  Figure flops_fp32;  // of the ordinary cores
  Figure sms;
  Figure memory_bytes;
  Figure memory_bandwidth;       // bytes/s
  Figure node_bandwidth;         // bytes/s a GPU and direction to GPUs of its node (NVLink)
  Figure node_latency;           // seconds a message
  Figure network_bandwidth;      // bytes/s a GPU and direction to other nodes (InfiniBand)
  Figure network_latency;        // seconds a message
  Figure failures_per_gpu_year;  // failures that stop the run
  Figure restart_seconds;        // from a failure until training goes on, lost steps not counted
  Figure storage_bandwidth;      // bytes/s a GPU into checkpoints
  Figure price_per_gpu_hour;     // dollars

  bool has_fp8() const { return flops_fp8.value > 0; }
};

// The fields of a cluster by the name they have in its file, in the file's order.
struct ClusterField {
  const char* name;
  Figure Cluster::*figure;
  const char* unit;
};
const std::vector<ClusterField>& cluster_fields();
const char* source_name(Source source);

// Strict: throws Error naming file and key for a field that is missing, unknown, of a wrong type or out of
// range, and for a `source` that is none of datasheet, measured, assumed.
Cluster read_cluster(const fs::path& file);
Cluster parse_cluster(std::string_view text, const std::string& file);

}  // namespace moray::plan
