#include "train/evaluate.h"

#include <algorithm>
#include <cmath>

#include "ops/cross_entropy.h"

namespace moray {

namespace {
constexpr double kLn2 = 0.693147180559945309417;
constexpr int64_t kRowsAtOnce = 2048;

// Adds the losses of windows of one length, in their order.
void add_windows(Exec& exec, const deepseek::Model& model, const RopeTable& rope, const TokenReader& read,
                 std::span<const TokenWindow> windows, int32_t before_first, Evaluation& evaluation) {
  const SampleRows rows{.samples = static_cast<int64_t>(windows.size()),
                        .rows_per_sample = windows[0].length};
  const auto length = static_cast<size_t>(rows.rows_per_sample);
  const Tensor ids_T = exec.empty_i32({rows.rows()}), targets_T = exec.empty_i32({rows.rows()});
  for (size_t i = 0; i < windows.size(); ++i) {
    const std::span<int32_t> ids = ids_T.span<int32_t>().subspan(i * length, length),
                             targets = targets_T.span<int32_t>().subspan(i * length, length);
    const int64_t begin = windows[i].begin;
    read(begin, targets);
    ids[0] = before_first;
    if (begin > 0) read(begin - 1, ids.first(1));
    std::copy(targets.begin(), targets.end() - 1, ids.begin() + 1);
  }
  const Tensor loss_T = exec.empty_wide({rows.rows()});
  cross_entropy_forward(exec, hidden_states(exec, model, ids_T, rows, rope), model.lm_head_VD, targets_T,
                        loss_T);
  for (float loss : loss_T.span<float>()) evaluation.nats += loss;
  evaluation.tokens += rows.rows();
}
}  // namespace

double Evaluation::perplexity() const {
  return std::exp(loss());
}
double Evaluation::bits_per_byte(uint64_t bytes) const {
  return nats / kLn2 / static_cast<double>(bytes);
}

std::vector<TokenWindow> spread_windows(int64_t stream_tokens, int64_t tokens, int64_t sequence_length) {
  const auto windows_of = [&](int64_t count) { return (count + sequence_length - 1) / sequence_length; };
  const int64_t all = windows_of(stream_tokens), wanted = windows_of(std::min(tokens, stream_tokens));
  std::vector<TokenWindow> windows;
  for (int64_t i = 0; i < wanted; ++i) {
    const int64_t begin = (2 * i + 1) * all / (2 * wanted) * sequence_length;
    windows.push_back({begin, std::min(sequence_length, stream_tokens - begin)});
  }
  return windows;
}

Evaluation evaluate(Exec& exec, const deepseek::Model& model, const RopeTable& rope, const TokenReader& read,
                    std::span<const TokenWindow> windows, int32_t before_first) {
  if (windows.empty()) fail("nothing to evaluate: the stream has no tokens");
  Evaluation evaluation;
  while (!windows.empty()) {
    const int64_t length = windows[0].length;
    const auto most = static_cast<size_t>(std::max<int64_t>(1, kRowsAtOnce / length));
    size_t count = 1;
    while (count < std::min(most, windows.size()) && windows[count].length == length) ++count;
    add_windows(exec, model, rope, read, windows.first(count), before_first, evaluation);
    windows = windows.subspan(count);
  }
  return evaluation;
}

}  // namespace moray
