// moray bench: how fast this machine is, and how fast it trains a recipe's model.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "bench/noise.h"
#include "runtime/exec.h"

namespace moray {

// How noisy the machine was, at the end of a bench's JSON object.
void add_noise(nlohmann::ordered_json& json, const Noise&);

// Where the time of `body` goes, by op family.
std::string table_of(Exec&, const std::function<void()>& body);

struct BenchLimitsOptions {
  int threads = 0;
  bool json = false;
};
// Multiply-adds in f32 and int8, bandwidth of caches and memory, on one and on all threads, and how noisy the
// machine was meanwhile.
int run_bench_limits(const BenchLimitsOptions&);

struct BenchStepOptions {
  std::string recipe;
  std::vector<std::string> assignments;  // --set key=value
  int steps = 3;
  int threads = 0;
  bool scaling = false;  // beside it the same on one thread
  bool table = false;    // where the time of a step goes, by op family
  bool json = false;
};
// Times forward, backward and optimizer of whole steps on random tokens, and holds them against the
// multiply-add peak measured in the same run: 6 × the parameters a token is multiplied with, plus attention.
int run_bench_step(const BenchStepOptions&);

}  // namespace moray
