#include "serve/generate.h"

#include "ops/matmul.h"

namespace moray {

std::vector<int32_t> generate(Exec& exec, const deepseek::Model& model, std::span<const int32_t> prompt,
                              const GenerateOptions& options, const std::function<bool(int32_t)>& emit) {
  if (prompt.empty()) fail("the prompt is empty");
  const auto prompt_tokens = static_cast<int64_t>(prompt.size());
  const int64_t most = prompt_tokens + options.max_tokens, limit = model.config.max_position_embeddings;
  if (most > limit)
    fail("prompt of {} tokens + {} new ones exceed the model's {} positions", prompt_tokens,
         options.max_tokens, limit);
  const RopeTable rope = deepseek::make_rope_table(exec, model.config, most);
  const Tensor ids_T = exec.empty_i32({most});
  std::copy(prompt.begin(), prompt.end(), ids_T.data<int32_t>());
  const Tensor logits = exec.empty({1, model.config.vocab_size});
  const int64_t drawable = options.sampled_vocabulary > 0
                               ? std::min(options.sampled_vocabulary, model.config.vocab_size)
                               : model.config.vocab_size;
  std::vector<int32_t> generated;
  for (int64_t length = prompt_tokens; length < most; ++length) {
    const SampleRows rows{.samples = 1, .rows_per_sample = length};
    const Tensor h_TD = deepseek::hidden_states(exec, model, ids_T.rows(0, length), rows, rope);
    matmul_forward(exec, h_TD.rows(length - 1, length), model.lm_head_VD, logits);
    const int32_t token =
        sample_token(logits.span<float>().first(static_cast<size_t>(drawable)), options.sampling, length);
    if (token == options.end_token) break;
    ids_T.data<int32_t>()[length] = token;
    generated.push_back(token);
    if (!emit(token)) break;
  }
  return generated;
}

}  // namespace moray
