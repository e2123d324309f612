#include "train/evaluate.h"

#include <algorithm>
#include <cmath>

#include "ops/cross_entropy.h"

namespace moray {

namespace {
constexpr double kLn2 = 0.693147180559945309417;
constexpr int64_t kRowsAtOnce = 2048;

// Σ of the losses of `windows` windows of `length` tokens that begin at `begin`.
double window_nats(Exec& exec, const deepseek::Model& model, const RopeTable& rope, const TokenReader& read,
                   int64_t begin, int64_t windows, int64_t length, int32_t before_first) {
  const Tensor tokens = exec.empty_i32({windows * length + 1});
  const Tensor ids_T = exec.empty_i32({windows * length}), targets_T = exec.empty_i32({windows * length});
  int32_t* all = tokens.data<int32_t>();
  if (begin == 0) {
    all[0] = before_first;
    read(0, tokens.span<int32_t>().subspan(1));
  } else {
    read(begin - 1, tokens.span<int32_t>());
  }
  std::copy(all, all + windows * length, ids_T.data<int32_t>());
  std::copy(all + 1, all + 1 + windows * length, targets_T.data<int32_t>());
  const SampleRows rows{.samples = windows, .rows_per_sample = length};
  const Tensor loss_T = exec.empty_wide({windows * length});
  cross_entropy_forward(exec, hidden_states(exec, model, ids_T, rows, rope), model.lm_head_VD, targets_T,
                        loss_T);
  double nats = 0;
  for (float loss : loss_T.span<float>()) nats += loss;
  return nats;
}
}  // namespace

double Evaluation::perplexity() const {
  return std::exp(loss());
}
double Evaluation::bits_per_byte(uint64_t bytes) const {
  return nats / kLn2 / static_cast<double>(bytes);
}

Evaluation evaluate(Exec& exec, const deepseek::Model& model, const RopeTable& rope, const TokenReader& read,
                    int64_t tokens, int64_t sequence_length, int32_t before_first,
                    const std::function<void(int64_t)>& progress) {
  if (tokens <= 0) fail("nothing to evaluate: the stream has no tokens");
  Evaluation evaluation;
  const int64_t windows_at_once = std::max<int64_t>(1, kRowsAtOnce / sequence_length);
  while (evaluation.tokens < tokens) {
    const int64_t left = tokens - evaluation.tokens;
    const int64_t windows = std::min(windows_at_once, left / sequence_length);
    const int64_t length = windows > 0 ? sequence_length : left;  // the last window may be short
    const int64_t count = std::max<int64_t>(1, windows);
    evaluation.nats += window_nats(exec, model, rope, read, evaluation.tokens, count, length, before_first);
    evaluation.tokens += count * length;
    if (progress) progress(evaluation.tokens);
  }
  return evaluation;
}

}  // namespace moray
