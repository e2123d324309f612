// moray train: a recipe, trained.
#pragma once

#include <string>
#include <vector>

namespace moray {

struct TrainOptions {
  std::string recipe;                    // RECIPE.toml
  std::vector<std::string> assignments;  // --set key=value
  std::string run;                       // the run's folder; empty: runs/<recipe's name>
  bool resume = false;
  std::string resume_from = "auto";  // the newest checkpoint that is whole: the only choice there is
  std::string init;                  // Hugging Face folder with the first weights
  std::string trace;                 // a Chrome trace of a few steps goes here
  int64_t trace_steps = 3;
  int threads = 0;
  bool json = false;
};
int run_train(const TrainOptions&);

}  // namespace moray
