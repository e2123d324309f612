// moray report: one HTML page of a run, or of several side by side.
#pragma once

#include <string>
#include <vector>

namespace moray {

struct ReportOptions {
  std::vector<std::string> runs;
  std::string output;  // empty: report.html in the only run's folder
  bool json = false;
};
int run_report(const ReportOptions&);

}  // namespace moray
