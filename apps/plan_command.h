// moray plan RECIPE, moray plan search RECIPE, moray plan shapes RECIPE: what a training run costs on a
// cluster. Results go to stdout, everything else to stderr; mistakes throw Error.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moray {

struct PlanOptions {
  std::string recipe;                    // a plan, a training recipe or a config.json
  std::string cluster;                   // clusters/*.toml
  std::vector<std::string> assignments;  // --set KEY=VALUE
  std::string html;                      // --html FILE: a page; empty: none
  std::string trace;                     // --trace FILE: a Chrome trace; empty: none
  bool json = false;                     // one JSON object instead of tables
};
int run_plan(const PlanOptions& options);

struct PlanSearchOptions {
  PlanOptions plan;              // html and trace unused
  std::vector<int64_t> gpus;     // --gpus N ...: default the recipe's own number
  int64_t sequences = 0;         // --sequences: of a step; 0: the recipe's own
  std::string rank_by = "cost";  // --rank-by cost or time
  int64_t most = 20;             // --top: rows to show
};
int run_plan_search(const PlanSearchOptions& options);

// Other shapes of the model at equal communication.
int run_plan_shapes(const PlanOptions& options);

}  // namespace moray
