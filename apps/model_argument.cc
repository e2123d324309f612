#include "apps/model_argument.h"

#include "backend/register.h"
#include "checkpoint/checkpoint.h"
#include "train/model_folder.h"

namespace moray {

fs::path resolve_model_folder(const fs::path& path) {
  if (fs::exists(path / "config.json")) return path;
  if (fs::exists(path / "model" / "config.json")) return path / "model";
  if (const auto latest = latest_checkpoint(path / "checkpoints")) return *latest / "model";
  if (!fs::exists(path)) fail("{}: no such folder", path.string());
  fail("{}: neither a model folder (config.json), nor a checkpoint, nor a run with one", path.string());
}

LoadedModel load_model_argument(const Exec& exec, const std::string& path, const std::string& weights) {
  const fs::path folder = resolve_model_folder(path);
  const fs::path checkpoint = folder.parent_path();
  if (fs::exists(checkpoint / "manifest.json")) verify_checkpoint(checkpoint);
  LoadedModel loaded{folder, load_model(exec, folder), Tokenizer::read(folder)};
  if (loaded.tokenizer.vocabulary_size() > loaded.model.config.vocab_size)
    fail("{}: its tokenizer has {} tokens, the model's vocabulary {}", folder.string(),
         loaded.tokenizer.vocabulary_size(), loaded.model.config.vocab_size);
  if (weights == "ema") {
    const fs::path ema = checkpoint / "state" / "ema.safetensors";
    if (!fs::exists(ema))
      fail("{}: this checkpoint has no moving average (train.ema_decay)", checkpoint.string());
    const SafetensorsFile file(ema);
    for (const deepseek::NamedWeight& weight : deepseek::named_weights(loaded.model))
      file.read(weight.name, weight.tensor);
  } else if (weights != "model") {
    fail("--weights is '{}', expected 'model' or 'ema'", weights);
  }
  return loaded;
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
