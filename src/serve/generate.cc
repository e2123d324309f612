#include "serve/generate.h"

#include <algorithm>
#include <chrono>

namespace moray {

namespace {
double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}
}  // namespace

void expect_within_context(int64_t prompt_tokens, int64_t max_tokens, int64_t context_tokens) {
  if (max_tokens > context_tokens - prompt_tokens)
    fail("prompt of {} tokens + {} new ones exceed the context of {} positions", prompt_tokens, max_tokens,
         context_tokens);
}

Generation generate(Engine& engine, std::span<const int32_t> prompt, const GenerateOptions& options,
                    const std::function<bool(const GeneratedToken&)>& emit) {
  if (prompt.empty()) fail("the prompt is empty");
  options.sampling.validate();
  const auto prompt_tokens = static_cast<int64_t>(prompt.size());
  expect_within_context(prompt_tokens, options.max_tokens, engine.context_tokens());
  const int64_t vocabulary = engine.config().vocab_size;
  const int64_t drawable =
      options.sampled_vocabulary > 0 ? std::min(options.sampled_vocabulary, vocabulary) : vocabulary;

  Generation result;
  auto start = std::chrono::steady_clock::now();
  if (options.prompt_logprobs) engine.truncate(0);
  const int64_t kept = engine.keep_prefix(prompt);
  const int64_t to_compute = prompt_tokens - kept;
  const auto progress = [&](int64_t done) {
    return !options.prompt_progress || options.prompt_progress(done, to_compute);
  };
  progress(0);
  const auto add_logprobs = [&](int64_t first, const Tensor& states_TD) {
    const int64_t rows =
        std::min(states_TD.extent(0), prompt_tokens - first - 1);  // the last has no next token
    if (rows == 0) return;
    const auto next = prompt.subspan(static_cast<size_t>(first + 1), static_cast<size_t>(rows));
    for (float logprob : engine.logprobs(states_TD.rows(0, rows), next))
      result.prompt_logprobs.push_back(logprob);
  };
  const auto read = options.prompt_logprobs ? Engine::StatesReader(add_logprobs) : Engine::StatesReader();
  Tensor state = engine.append_prompt(prompt.subspan(static_cast<size_t>(kept)), read, progress);
  result.computed_prompt_tokens = engine.length() - kept;
  result.prompt_seconds = seconds_since(start);
  if (!state.defined()) {
    result.finish = FinishReason::stopped_by_caller;
    return result;
  }

  start = std::chrono::steady_clock::now();
  while (static_cast<int64_t>(result.tokens.size()) < options.max_tokens) {
    if (!result.tokens.empty()) state = engine.append_generated(result.tokens.back());
    const Tensor logits = engine.logits(state);
    const std::span<const float> row = logits.span<float>();
    GeneratedToken token{sample_token(row.first(static_cast<size_t>(drawable)), options.sampling,
                                      engine.length(), {prompt, result.tokens})};
    if (std::ranges::find(options.end_tokens, token.id) != options.end_tokens.end()) {
      result.finish = FinishReason::stop;
      break;
    }
    if (options.top_logprobs >= 0)
      token.logprobs = token_logprobs(row, token.id, options.top_logprobs, drawable);
    result.tokens.push_back(token.id);
    if (!emit(token)) {
      result.finish = FinishReason::stopped_by_caller;
      break;
    }
  }
  result.seconds = seconds_since(start);
  return result;
}

}  // namespace moray
