// A training run: a folder with the resolved recipe, metrics, checkpoints and a report; resumable after any
// kill.
#pragma once

#include <optional>
#include <string>

#include "base/config.h"
#include "runtime/exec.h"

namespace moray {

struct RunOptions {
  fs::path folder;      // runs/NAME
  bool resume = false;  // go on from the newest checkpoint in the folder, or start when there is none
  fs::path init;        // Hugging Face folder to take the first weights from; empty: random
  fs::path trace;       // Chrome trace of a few steps, and their table on stderr; empty: none
  int64_t trace_steps = 3;
};

struct RunSummary {
  int64_t steps = 0, tokens = 0;
  double loss = 0;  // of the last step, nats a token
  std::optional<double> validation_loss;
  fs::path checkpoint;       // the last one
  bool interrupted = false;  // by SIGINT or SIGTERM, after saving
};

// Trains as the recipe says. SIGINT and SIGTERM end the run after the step in progress, with a checkpoint; a
// second one ends it at once. Throws Error for a user's mistake; what was saved stays.
RunSummary run_training(Exec&, Config recipe, const RunOptions&);

}  // namespace moray
