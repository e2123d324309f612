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

}  // namespace moray
