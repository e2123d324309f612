// What `--model DIR` may name: a Hugging Face folder, a checkpoint of a run, or a run (its newest
// checkpoint).
#pragma once

#include <memory>
#include <string>

#include "data/tokenizer.h"
#include "models/deepseek/model.h"

namespace moray {

struct LoadedModel {
  fs::path folder;  // the Hugging Face folder
  deepseek::Model model;
  Tokenizer tokenizer;
};

// `weights`: "model", or "ema" for the moving average (checkpoints only).
LoadedModel load_model_argument(const Exec&, const std::string& path, const std::string& weights);

// The Hugging Face folder that `path` stands for.
fs::path resolve_model_folder(const fs::path& path);

// Threads, memory and device of a command.
struct Workplace {
  explicit Workplace(int threads);
  Allocator allocator;
  ThreadPool pool;
  Exec exec;
};

}  // namespace moray
