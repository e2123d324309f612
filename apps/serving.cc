#include "apps/serving.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "apps/interrupt.h"
#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "report/progress.h"
#include "serve/packed_cache.h"
#include "serve/serving_need.h"
#include "train/model_folder.h"

namespace moray {

namespace {

DType cache_dtype_of(const std::string& asked, bool all_f32) {
  if (asked == "auto") return all_f32 ? DType::f32 : DType::bf16;
  if (asked == "f32") return DType::f32;
  if (asked == "bf16") return DType::bf16;
  if (asked == "fp8") return DType::f8_e4m3;
  fail("--cache is '{}', expected 'auto', 'bf16', 'fp8' or 'f32'", asked);
}

// The moving average beside a checkpoint's model.
fs::path average_of(const std::optional<fs::path>& checkpoint, const fs::path& folder) {
  if (!checkpoint) fail("{}: is not of a checkpoint; only those have a moving average", folder.string());
  const fs::path file = *checkpoint / "state" / "ema.safetensors";
  if (!fs::exists(file))
    fail("{}: this checkpoint has no moving average (train.ema_decay)", checkpoint->string());
  return file;
}

// "TOKEN=BIAS"
std::pair<int32_t, double> parse_logit_bias(std::string_view item) {
  const size_t equals = item.find('=');
  std::pair<int32_t, double> bias;
  const auto parsed = [](std::string_view text, auto& value) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc() && end == text.data() + text.size();
  };
  if (equals == std::string_view::npos || !parsed(item.substr(0, equals), bias.first) ||
      !parsed(item.substr(equals + 1), bias.second))
    fail("--logit-bias: '{}' is not TOKEN=BIAS", item);
  return bias;
}

int64_t context_of(const deepseek::ModelConfig& config, int64_t asked) {
  const int64_t positions = config.max_position_embeddings;
  if (asked > positions) fail("--context is {}, the model has {} positions", asked, positions);
  return asked > 0 ? asked : positions;
}

// eos_token_id of a JSON file: an integer or a list.
void append_end_tokens(const fs::path& path, std::vector<int32_t>& ids) {
  if (!fs::exists(path)) return;
  const nlohmann::json config = parse_json(read_file(path), path.string());
  const nlohmann::json* found = json_find(config, "eos_token_id", path.string());
  if (found == nullptr) return;
  for (const nlohmann::json& id : found->is_array() ? *found : nlohmann::json::array({*found})) {
    if (!id.is_number_integer() || id < 0 || id > INT32_MAX)
      fail("{}: eos_token_id is {}, expected a token id", path.string(), id.dump());
    ids.push_back(id.get<int32_t>());
  }
}

}  // namespace

SamplingOptions sampling_of(const AnswerOptions& options) {
  SamplingOptions sampling = options.sampling;
  for (const std::string& item : options.logit_bias)
    if (const auto bias = parse_logit_bias(item); !sampling.logit_bias.insert(bias).second)
      fail("--logit-bias: token {} has two", bias.first);
  sampling.validate();
  return sampling;
}

void expect_known_tokens(const AnswerOptions& options, const SamplingOptions& sampling,
                         const Tokenizer& tokenizer) {
  const auto expect = [&](const char* option, int32_t token) {
    if (token < 0 || token >= tokenizer.vocabulary_size())
      fail("{}: token {}, but the vocabulary has {}", option, token, tokenizer.vocabulary_size());
  };
  for (const auto& [token, bias] : sampling.logit_bias) expect("--logit-bias", token);
  for (const int32_t token : options.stop_tokens) expect("--stop-token", token);
}

std::function<bool(int64_t done, int64_t total)> prompt_progress_line() {
  const auto line = std::make_shared<std::optional<Progress>>();
  return [line](int64_t done, int64_t total) {
    if (!*line) line->emplace("prompt", total, "tokens");
    (*line)->update(done);
    if (done == total || interrupted()) line->reset();  // ends the line before the answer begins
    return !interrupted();
  };
}

Serving::Serving(const ServingOptions& options, int64_t expected_tokens, const PromptTokens& prompt_tokens)
    : workplace_(options.threads), folder_(resolve_model_folder(options.model)) {
  const std::optional<fs::path> checkpoint = verified_checkpoint_of(folder_);
  if (options.weights != "model" && options.weights != "ema")
    fail("--weights is '{}', expected 'model' or 'ema'", options.weights);
  const deepseek::ModelConfig config = read_model_config(folder_);
  context_tokens_ = context_of(config, options.context_tokens);
  const fs::path average = options.weights == "ema" ? average_of(checkpoint, folder_) : fs::path();
  if (options.needs_tokenizer) read_tokenizer(config.vocab_size);
  if (prompt_tokens) expected_tokens += static_cast<int64_t>(prompt_tokens(*this));
  load(options, config, expected_tokens);
  if (!average.empty()) load_average(average);
  engine_.emplace(exec(), served_, EngineOptions{cache_dtype_, options.chunk_tokens, context_tokens_});
}

void Serving::read_tokenizer(int64_t vocabulary) {
  tokenizer_ = Tokenizer::read(folder_);
  if (tokenizer_->vocabulary_size() > vocabulary)
    fail("{}: its tokenizer has {} tokens, the model's vocabulary {}", folder_.string(),
         tokenizer_->vocabulary_size(), vocabulary);
  find_end_tokens();
}

void Serving::load(const ServingOptions& options, const deepseek::ModelConfig& config,
                   int64_t expected_tokens) {
  const SafetensorsFolder weights(folder_);
  const WeightPlan plan = plan_weights(weights, config, /*with_mtp=*/false);
  const bool all_f32 = std::ranges::all_of(
      plan.tensors, [](const PlannedTensor& tensor) { return tensor.dtype == DType::f32; });
  cache_dtype_ = cache_dtype_of(options.cache, all_f32);
  const int64_t tokens =
      options.context_tokens > 0 ? context_tokens_ : std::min(expected_tokens, context_tokens_);
  expect_memory(plan.config,
                memory_need(plan.config, plan.bytes(), cache_dtype_, options.chunk_tokens, tokens),
                available_memory_bytes());
  const auto total = static_cast<int64_t>(plan.bytes());
  std::optional<Progress> progress;
  progress.emplace("load", total, "bytes");
  bool writes = false;  // the packed file, after loading
  const auto read = [&](size_t done) { progress->update(static_cast<int64_t>(done)); };
  const auto written = [&](size_t done) {
    if (!std::exchange(writes, true)) progress.emplace("pack", total, "bytes");
    progress->update(static_cast<int64_t>(done));
  };
  served_ = load_weights_or_packed(exec(), weights, plan, options.packed, read, written);
}

void Serving::load_average(const fs::path& file) {
  const SafetensorsFile average(file);
  for (const Parameter& parameter : list_parameters(served_.model))
    if (parameter.tensor->defined()) *parameter.tensor = parameter.tensor->lying_in(TensorLayout::rows);
  for (const deepseek::NamedWeight& weight : deepseek::named_weights(served_.model))
    average.read(weight.name, weight.tensor);
  pack_weights(exec(), served_);
}

void Serving::find_end_tokens() {
  append_end_tokens(folder_ / "generation_config.json", end_tokens_);
  append_end_tokens(folder_ / "config.json", end_tokens_);
  if (const auto end = tokenizer().end_of_sentence()) end_tokens_.push_back(*end);
  for (std::string_view name : {kEndOfSentence, std::string_view("<|im_end|>")})
    if (const auto id = tokenizer().id(name)) end_tokens_.push_back(*id);
  std::ranges::sort(end_tokens_);
  end_tokens_.erase(std::ranges::unique(end_tokens_).begin(), end_tokens_.end());
}

std::vector<int32_t> Serving::prompt_start() const {
  std::vector<int32_t> ids;
  tokenizer().begin_prompt(ids);
  if (ids.empty())
    if (const auto end = tokenizer().id(kEndOfSentence)) ids.push_back(*end);
  return ids;
}

}  // namespace moray
