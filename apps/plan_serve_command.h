// moray plan serve: what prefill and decode units yield, and a search for better ones. Results go to stdout,
// everything else to stderr; mistakes throw Error.
#pragma once

#include <string>
#include <vector>

namespace moray {

struct PlanServeOptions {
  std::string recipe;  // model = "..." (beside it), [prefill], [decode], [limits]; either unit may be absent
  std::string cluster = "clusters/h800.toml";
  std::string rates;                     // as `moray plan calibrate --output` writes them; empty: assumed
  std::vector<std::string> assignments;  // --set section.key=value
  std::vector<std::string> what_ifs;     // names as in plan/what_if.h
  bool search = false;                   // rank units under the limits
  int shown = 10;                        // lines of the search's table
  bool json = false;
};
int run_plan_serve(const PlanServeOptions& options);

}  // namespace moray
