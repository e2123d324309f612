// What generate, chat and eval share: a model folder made ready to serve, its tokenizer, and an engine.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "apps/model_argument.h"
#include "serve/generate.h"

namespace moray {

struct ServingOptions {
  std::string model;
  std::string weights = "model";  // or "ema"
  std::string cache = "auto";     // "bf16", "fp8", "f32", or auto: f32 where all weights are, else bf16
  int64_t context_tokens = 0;     // 0: the model's positions, as far as memory goes
  int64_t chunk_tokens = 512;
  int threads = 0;
  bool needs_tokenizer = true;
  bool packed = false;  // keep a packed file for later starts
};

// How an answer's tokens are drawn, and where it ends.
struct AnswerOptions {
  int64_t max_tokens = 128;
  SamplingOptions sampling = {};
  std::vector<std::string> logit_bias = {};  // "TOKEN=BIAS"
  std::vector<std::string> stop = {};        // strings
  std::vector<int32_t> stop_tokens = {};
};

// With the biases parsed. Throws Error naming what is out of range or no bias.
SamplingOptions sampling_of(const AnswerOptions&);
// Throws Error for tokens beyond the vocabulary.
void expect_known_tokens(const AnswerOptions&, const SamplingOptions&, const Tokenizer&);

// GenerateOptions::prompt_progress: a progress line for prompts of more than two seconds; Ctrl-C stops.
std::function<bool(int64_t done, int64_t total)> prompt_progress_line();

class Serving {
 public:
  // The tokens of a prompt that is known already; asked when folder and tokenizer are there, before the
  // weights are.
  using PromptTokens = std::function<size_t(const Serving&)>;

  // Checks the folder, compares its need with the machine's memory, loads. The cache of `expected_tokens` and
  // those of a prompt must fit beside the weights. Throws Error.
  Serving(const ServingOptions& options, int64_t expected_tokens, const PromptTokens& prompt_tokens = {});

  Exec& exec() { return workplace_.exec; }
  Engine& engine() { return *engine_; }
  const fs::path& folder() const { return folder_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  const ServedModel& served() const { return served_; }
  int64_t context_tokens() const { return context_tokens_; }  // of prompt and answer

  // Tokens that end an answer: what generation_config.json, config.json and the tokenizer name.
  const std::vector<int32_t>& end_tokens() const { return end_tokens_; }
  // What a prompt of plain text begins with: the tokenizer's begin-of-sentence where its prompts have one,
  // else the end-of-sentence that documents follow in training.
  std::vector<int32_t> prompt_start() const;

 private:
  void read_tokenizer(int64_t vocabulary);
  void load(const ServingOptions& options, const deepseek::ModelConfig& config, int64_t expected_tokens);
  void load_average(const fs::path& file);
  void find_end_tokens();

  Workplace workplace_;
  fs::path folder_;
  std::optional<Tokenizer> tokenizer_;
  std::vector<int32_t> end_tokens_;
  ServedModel served_;
  int64_t context_tokens_ = 0;
  DType cache_dtype_ = DType::bf16;
  std::optional<Engine> engine_;
};

}  // namespace moray
