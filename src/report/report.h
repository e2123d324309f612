// report.html: one file that shows a run, or compares several; it loads nothing from elsewhere.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/files.h"
#include "report/metrics.h"

namespace moray {

// What a run folder tells of a run. Only metrics.jsonl must exist.
struct RunRecord {
  std::string name;                        // the folder's
  std::vector<StepMetrics> metrics;        // metrics.jsonl
  std::vector<ExpertLoadRow> expert_load;  // expert_load.jsonl
  std::string recipe;                      // recipe.toml, the resolved recipe
  std::optional<std::string>
      evaluation;  // evaluation.json: one JSON object, shown key by key; its numbers
                   // bits_per_byte, xz_bits_per_byte, gzip_bits_per_byte are drawn as bars
};

// Throws Error naming the file when one is missing, broken, or holds layers of changing number or size.
RunRecord read_run(const fs::path& run_folder);

// The page as HTML. Long runs are thinned to kMaxReportPoints points a curve. Needs at least one run.
std::string report_html(const std::vector<RunRecord>& runs);

// Reads the runs and writes the page atomically.
void write_report(const std::vector<fs::path>& run_folders, const fs::path& output);

inline constexpr size_t kMaxReportPoints = 1500;

}  // namespace moray
