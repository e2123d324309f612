// moray plan calibrate: a profiler's trace to kernel rates, and the chunk pair predicted from them. Results
// go to stdout, everything else to stderr; mistakes throw Error.
#pragma once

#include <cstdint>
#include <string>

namespace moray {

struct PlanCalibrateOptions {
  std::string trace;                           // a Chrome trace: .json, .json.gz, .json.zst, .json.xz
  std::string model = "recipes/v3.toml";       // a recipe, a config.json or a folder that holds one
  std::string cluster = "clusters/h800.toml";  // of the traced GPU
  // What the trace holds: MoE layers of a forward and of a backward chunk, tokens of the micro-batch, ranks
  // of the expert group.
  int64_t layers = 4;
  int64_t tokens = 4096;
  int64_t expert_parallel = 64;
  std::string output;  // a file for the rates, as a plan names them in its `rates`; empty: none
  bool json = false;   // one JSON object on stdout instead of tables
};
int run_plan_calibrate(const PlanCalibrateOptions& options);

}  // namespace moray
