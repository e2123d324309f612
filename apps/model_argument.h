// What `--model DIR` may name: a Hugging Face folder, a checkpoint of a run, or a run (its newest
// checkpoint).
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "data/tokenizer.h"
#include "models/deepseek/model.h"

namespace moray {

// The Hugging Face folder that `path` stands for.
fs::path resolve_model_folder(const fs::path& path);

// The checkpoint whose model/ the folder is, verified: throws Error when it is damaged. None for other
// folders.
std::optional<fs::path> verified_checkpoint_of(const fs::path& model_folder);

// Threads, memory and device of a command.
struct Workplace {
  explicit Workplace(int threads);
  Allocator allocator;
  ThreadPool pool;
  Exec exec;
};

}  // namespace moray
