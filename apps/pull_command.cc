#include "apps/pull_command.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "report/progress.h"

namespace moray {

int run_pull(const PullCommandOptions& options) {
  hub::PullOptions pull = options.pull;
  constexpr int kMostConnections = 32;
  if (pull.connections < 1 || pull.connections > kMostConnections)
    fail("--connections is {}, expected 1 to {}", pull.connections, kMostConnections);
  hub::expect_repository_name(pull.repository);
  pull.output =
      options.output.empty() ? pull.repository.substr(pull.repository.find('/') + 1) : options.output;
  if (pull.output.filename().empty()) pull.output = pull.output.parent_path();  // "models/x/"

  std::unique_ptr<Progress> progress;
  const hub::PullSummary summary =
      hub::pull(hub::Hub::from_environment(), pull, [&](uint64_t done, uint64_t total) {
        // The first call says what was there before.
        if (!progress)
          progress = std::make_unique<Progress>("pull", static_cast<int64_t>(total), "bytes",
                                                static_cast<int64_t>(done));
        progress->update(static_cast<int64_t>(done));
      });
  progress.reset();
  if (options.json) {
    const nlohmann::ordered_json json{
        {"folder", pull.output.string()}, {"repository", pull.repository},
        {"commit", summary.commit},       {"files", summary.files},
        {"bytes", summary.bytes},         {"was_complete", summary.was_complete}};
    fmt::print("{}\n", json.dump());
  } else {
    fmt::print("{}: {} files, {}B, commit {}{}\n", pull.output.string(), summary.files,
               short_count(static_cast<double>(summary.bytes)), summary.commit.substr(0, 12),
               summary.was_complete ? "; was complete already" : "");
  }
  return 0;
}

}  // namespace moray
