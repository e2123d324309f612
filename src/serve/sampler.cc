#include "serve/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/math.h"
#include "base/random.h"

namespace moray {

namespace {

void apply_penalties(const SamplingOptions& options, const SampledContext& context,
                     std::vector<float>& logits) {
  const auto size = static_cast<int32_t>(logits.size());
  for (const auto& [token, bias] : options.logit_bias)
    if (token >= 0 && token < size) logits[static_cast<size_t>(token)] += static_cast<float>(bias);
  std::map<int32_t, int64_t> in_answer, seen;
  for (int32_t token : context.answer) ++in_answer[token], ++seen[token];
  for (int32_t token : context.prompt) ++seen[token];
  const auto factor = static_cast<float>(options.repetition_penalty);
  for (const auto& [token, times] : seen) {
    if (token >= size) continue;
    float& logit = logits[static_cast<size_t>(token)];
    logit = logit > 0 ? logit / factor : logit * factor;
  }
  for (const auto& [token, times] : in_answer)
    if (token < size)
      logits[static_cast<size_t>(token)] -= static_cast<float>(
          options.presence_penalty + options.frequency_penalty * static_cast<double>(times));
}

// Token ids, likeliest first, put in order only as far as they are asked for.
class Likeliest {
 public:
  explicit Likeliest(std::span<const double> weights) : weights_(weights), order_(weights.size()) {
    std::iota(order_.begin(), order_.end(), 0);
  }
  int32_t operator[](size_t place) {
    while (place >= sorted_) {
      const size_t end = std::min(std::max<size_t>(64, sorted_ * 8), order_.size());
      std::partial_sort(order_.begin() + static_cast<int64_t>(sorted_),
                        order_.begin() + static_cast<int64_t>(end), order_.end(), [&](int32_t a, int32_t b) {
                          const double wa = weights_[static_cast<size_t>(a)];
                          const double wb = weights_[static_cast<size_t>(b)];
                          return wa != wb ? wa > wb : a < b;
                        });
      sorted_ = end;
    }
    return order_[place];
  }

 private:
  std::span<const double> weights_;
  std::vector<int32_t> order_;
  size_t sorted_ = 0;
};

// How many of the likeliest tokens are drawn from; at least one. Weights are relative to the first's.
size_t kept_tokens(std::span<const double> weights, const SamplingOptions& options, Likeliest& likeliest) {
  const size_t most =
      options.top_k > 0 ? std::min(static_cast<size_t>(options.top_k), weights.size()) : weights.size();
  const double wanted = options.top_p * std::accumulate(weights.begin(), weights.end(), 0.0);
  size_t kept = 0;
  double kept_weight = 0;
  while (kept < most && (kept == 0 || kept_weight < wanted)) {
    const double weight = weights[static_cast<size_t>(likeliest[kept])];
    if (kept > 0 && weight < options.min_p) break;
    kept_weight += weight;
    ++kept;
  }
  return kept;
}

}  // namespace

void SamplingOptions::validate() const {
  const auto expect = [](bool good, const char* name, double value, const char* range) {
    if (!good) fail("{} is {}, expected {}", name, value, range);
  };
  expect(temperature >= 0 && std::isfinite(temperature), "temperature", temperature, "0 or more");
  expect(top_p > 0 && top_p <= 1, "top_p", top_p, "more than 0 and at most 1");
  expect(top_k >= 0, "top_k", static_cast<double>(top_k), "0 or more");
  expect(min_p >= 0 && min_p <= 1, "min_p", min_p, "0 to 1");
  expect(repetition_penalty > 0 && std::isfinite(repetition_penalty), "repetition_penalty",
         repetition_penalty, "more than 0");
  expect(std::isfinite(presence_penalty), "presence_penalty", presence_penalty, "a finite number");
  expect(std::isfinite(frequency_penalty), "frequency_penalty", frequency_penalty, "a finite number");
  for (const auto& [token, bias] : logit_bias) {
    if (token < 0) fail("logit_bias: {} is no token", token);
    if (!std::isfinite(bias)) fail("logit_bias of token {} is {}, expected a finite number", token, bias);
  }
}

int32_t sample_token(std::span<const float> logits_V, const SamplingOptions& options, int64_t position,
                     const SampledContext& context) {
  options.validate();
  for (float logit : logits_V)
    if (!std::isfinite(logit)) fail("the model's logits are not finite at position {}", position);
  std::vector<float> changed;
  if (options.changes_logits()) {
    changed.assign(logits_V.begin(), logits_V.end());
    apply_penalties(options, context, changed);
    for (float logit : changed)
      if (!std::isfinite(logit))
        fail("logit_bias and penalties are too large: a logit is infinite with them");
    logits_V = changed;
  }
  const auto best = std::max_element(logits_V.begin(), logits_V.end());
  if (options.temperature == 0) return static_cast<int32_t>(best - logits_V.begin());

  std::vector<double> weights(logits_V.size());  // relative to the likeliest token's
  for (size_t v = 0; v < weights.size(); ++v)
    weights[v] =
        portable::exp((static_cast<double>(logits_V[v]) - static_cast<double>(*best)) / options.temperature);
  Likeliest order(weights);
  const size_t kept = kept_tokens(weights, options, order);
  double left = 0;
  for (size_t i = 0; i < kept; ++i) left += weights[static_cast<size_t>(order[i])];
  left *= Random(options.seed, static_cast<uint64_t>(position)).uniform();
  for (size_t i = 0; i < kept; ++i) {
    left -= weights[static_cast<size_t>(order[i])];
    if (left < 0) return order[i];
  }
  return order[kept - 1];
}

TokenLogprobs token_logprobs(std::span<const float> logits_V, int32_t chosen, int64_t most,
                             int64_t drawable) {
  const double best = *std::max_element(logits_V.begin(), logits_V.end());
  double sum = 0;
  for (float logit : logits_V) sum += portable::exp(static_cast<double>(logit) - best);
  const double log_sum = best + portable::log(sum);
  const auto of = [&](int32_t token) {
    return TokenLogprob{token, static_cast<double>(logits_V[static_cast<size_t>(token)]) - log_sum};
  };
  TokenLogprobs result{of(chosen), {}};
  std::vector<int32_t> order(std::min(logits_V.size(), static_cast<size_t>(drawable)));
  std::iota(order.begin(), order.end(), 0);
  const auto count = std::min<int64_t>(most, static_cast<int64_t>(order.size()));
  std::partial_sort(order.begin(), order.begin() + count, order.end(), [&](int32_t a, int32_t b) {
    const float la = logits_V[static_cast<size_t>(a)], lb = logits_V[static_cast<size_t>(b)];
    return la != lb ? la > lb : a < b;
  });
  for (int64_t i = 0; i < count; ++i) result.top.push_back(of(order[static_cast<size_t>(i)]));
  return result;
}

}  // namespace moray
