#include "serve/engine.h"

#include "base/math.h"
#include "ops/cross_entropy.h"
#include "serve/sampler.h"

namespace moray {

Engine::Engine(Exec& exec, const ServedModel& served, const EngineOptions& options)
    : exec_(exec),
      served_(served),
      chunk_tokens_(options.chunk_tokens),
      context_tokens_(served.model.config.max_position_embeddings),
      expanded_bytes_(options.expanded_bytes),
      cache_(served.model.config, served.model.config.num_hidden_layers, options.cache_dtype) {
  if (chunk_tokens_ < 1) fail("chunks are of {} tokens, expected at least 1", chunk_tokens_);
  if (options.context_tokens > context_tokens_)
    fail("a context of {} tokens was asked for, the model has {} positions", options.context_tokens,
         context_tokens_);
  if (options.context_tokens > 0) context_tokens_ = options.context_tokens;
}

void Engine::expect_room(int64_t more) {
  if (length() + more > context_tokens_)
    fail("{} tokens and {} more exceed the context of {}", length(), more, context_tokens_);
}

void Engine::reserve(int64_t positions) {
  cache_.reserve(positions, context_tokens_);
  if (rope_.cos_PJ.defined() && rope_.cos_PJ.extent(0) >= positions) return;
  rope_ = deepseek::make_rope_table(exec_, config(), std::max(cache_.capacity(), positions));
}

// The states after the final norm, [T, D]; none when `of_layers`, told what share of the layers is done, says
// stop.
Tensor Engine::append(std::span<const int32_t> ids, AttentionForm form,
                      const std::function<bool(double)>& of_layers) {
  const auto count = static_cast<int64_t>(ids.size());
  reserve(length() + count);
  const SequenceRows rows{length(), form, rope_, cache_, expanded_bytes_};
  Tensor x_TD = embed(exec_, served_.model.embed_tokens_VD, ids);
  const size_t layers = served_.model.layers.size();
  for (size_t layer = 0; layer < layers; ++layer) {
    x_TD = block_forward(exec_, served_.model.layers[layer], served_.scales.layers[layer],
                         static_cast<int64_t>(layer), x_TD, rows, chosen);
    if (of_layers && !of_layers(static_cast<double>(layer + 1) / static_cast<double>(layers))) return {};
  }
  tokens_.insert(tokens_.end(), ids.begin(), ids.end());
  RmsNorm::Saved saved;
  return served_.model.norm.forward(exec_, x_TD, saved);
}

Tensor Engine::append_prompt(std::span<const int32_t> ids, const StatesReader& read,
                             const PromptProgress& progress) {
  if (ids.empty()) fail("the prompt is empty");
  expect_room(static_cast<int64_t>(ids.size()));
  reserve(length() + static_cast<int64_t>(ids.size()));
  Tensor states_TD;
  for (size_t begin = 0; begin < ids.size(); begin += static_cast<size_t>(chunk_tokens_)) {
    const size_t count = std::min(static_cast<size_t>(chunk_tokens_), ids.size() - begin);
    const int64_t first = length();
    const auto of_layers = [&](double share) {
      return !progress ||
             progress(static_cast<int64_t>(static_cast<double>(begin) + share * static_cast<double>(count)));
    };
    states_TD = append(ids.subspan(begin, count), AttentionForm::expanded, of_layers);
    if (!states_TD.defined()) return {};
    if (prompt_length_ == first) prompt_length_ = length();
    if (read) read(first, states_TD);
  }
  return states_TD.rows(states_TD.extent(0) - 1, states_TD.extent(0));
}

Tensor Engine::append_generated(int32_t id) {
  expect_room(1);
  return append({&id, 1}, AttentionForm::absorbed);
}

void Engine::truncate(int64_t length) {
  MORAY_CHECK(length >= 0 && length <= this->length());
  tokens_.resize(static_cast<size_t>(length));
  prompt_length_ = std::min(prompt_length_, length);
}

int64_t Engine::keep_prefix(std::span<const int32_t> ids) {
  const auto most = std::min({static_cast<size_t>(prompt_length_), ids.size(), tokens_.size()});
  size_t same = 0;
  while (same < most && tokens_[same] == ids[same]) ++same;
  if (same == ids.size() && same > 0) --same;
  truncate(static_cast<int64_t>(same));
  return static_cast<int64_t>(same);
}

Tensor Engine::logits(const Tensor& states_TD) {
  const Tensor& head = served_.model.lm_head_VD;
  const Tensor logits_TV = exec_.empty({states_TD.extent(0), head.extent(0)});
  weight_matmul(exec_, states_TD, {head, served_.scales.lm_head_VD, 0}, logits_TV);
  return logits_TV;
}

std::vector<float> Engine::logprobs(const Tensor& states_TD, std::span<const int32_t> targets) {
  const auto count = static_cast<int64_t>(targets.size());
  MORAY_CHECK(states_TD.extent(0) == count);
  if (served_.scales.lm_head_VD.defined()) return logprobs_of_codes(states_TD, targets);
  const Tensor targets_T = exec_.empty_i32({count}), loss_T = exec_.empty({count});
  std::copy(targets.begin(), targets.end(), targets_T.data<int32_t>());
  cross_entropy_forward(exec_, states_TD, served_.model.lm_head_VD, targets_T, loss_T);
  std::vector<float> result;
  for (float loss : loss_T.span<float>()) result.push_back(-loss);
  return result;
}

// The head has integer codes: a few rows of logits at a time.
std::vector<float> Engine::logprobs_of_codes(const Tensor& states_TD, std::span<const int32_t> targets) {
  constexpr int64_t kRows = 64;
  std::vector<float> result(targets.size());
  for (int64_t begin = 0; begin < states_TD.extent(0); begin += kRows) {
    const Tensor rows_TV = logits(states_TD.rows(begin, std::min(begin + kRows, states_TD.extent(0))));
    exec_.pool->for_each(rows_TV.extent(0), [&](int64_t row, int) {
      const auto at = static_cast<size_t>(begin + row);
      if (targets[at] >= 0)
        result[at] =
            static_cast<float>(token_logprobs(rows_TV.row(row).span<float>(), targets[at], 0).chosen.logprob);
    });
  }
  return result;
}

}  // namespace moray
