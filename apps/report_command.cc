#include "apps/report_command.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "apps/output.h"
#include "base/error.h"
#include "report/report.h"

namespace moray {

int run_report(const ReportOptions& options) {
  if (options.output.empty() && options.runs.size() > 1) fail("report: several runs need --output FILE.html");
  const fs::path output =
      options.output.empty() ? fs::path(options.runs.at(0)) / "report.html" : fs::path(options.output);
  write_report({options.runs.begin(), options.runs.end()}, output);
  if (options.json)
    print_json(nlohmann::ordered_json{{"report", output.string()}});
  else
    fmt::print("{}\n", output.string());
  return 0;
}

}  // namespace moray
