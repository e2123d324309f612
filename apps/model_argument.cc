#include "apps/model_argument.h"

#include "backend/register.h"
#include "checkpoint/checkpoint.h"
#include "train/model_folder.h"

namespace moray {

namespace {

constexpr const char* kNoGguf = "weights in GGUF are not read; take the model's safetensors folder";

// Why a folder is no model.
[[noreturn]] void fail_no_model(const fs::path& folder) {
  for (const fs::directory_entry& entry : fs::directory_iterator(folder))
    if (entry.path().extension() == ".gguf") fail("{}: {}", entry.path().string(), kNoGguf);
  fail("{}: neither a model folder (config.json), nor a checkpoint, nor a run with one", folder.string());
}

}  // namespace

fs::path resolve_model_folder(const fs::path& path) {
  if (!fs::exists(path)) fail("{}: no such folder", path.string());
  if (path.extension() == ".gguf") fail("{}: {}", path.string(), kNoGguf);
  if (!fs::is_directory(path)) fail("{}: is a file, expected a model's folder", path.string());
  if (fs::exists(path / "config.json")) return path;
  if (fs::exists(path / "model" / "config.json")) return path / "model";
  if (const auto latest = latest_checkpoint(path / "checkpoints")) return *latest / "model";
  fail_no_model(path);
}

std::optional<fs::path> verified_checkpoint_of(const fs::path& model_folder) {
  const fs::path whole = whole_path(model_folder), checkpoint = whole.parent_path();
  if (whole.filename() != "model" || !fs::exists(checkpoint / "manifest.json") ||
      !fs::exists(checkpoint / "state"))
    return std::nullopt;
  verify_checkpoint(checkpoint);
  return checkpoint;
}

namespace {
int expect_few(int threads) {
  constexpr int kMostThreads = 4096;
  if (threads > kMostThreads) fail("--threads is {}, expected at most {}", threads, kMostThreads);
  return threads;
}
}  // namespace

Workplace::Workplace(int threads) : pool(resolve_threads(expect_few(threads))) {
  register_backends();
  exec = {Device::cpu, &pool, &allocator, DType::f32};
}

}  // namespace moray
