// moray bench: how fast this machine trains a recipe's model.
#pragma once

#include <string>
#include <vector>

namespace moray {

struct BenchStepOptions {
  std::string recipe;
  std::vector<std::string> assignments;  // --set key=value
  int steps = 3;
  int threads = 0;
  bool json = false;
};
// Times forward, backward and optimizer of whole steps on random tokens, and holds them against the
// multiply-add peak measured in the same run: 6 × the parameters a token is multiplied with, plus attention.
int run_bench_step(const BenchStepOptions&);

}  // namespace moray
