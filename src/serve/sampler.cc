#include "serve/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/error.h"
#include "base/math.h"
#include "base/random.h"

namespace moray {

int32_t sample_token(std::span<const float> logits_V, const SamplingOptions& options, int64_t position) {
  if (!(options.temperature >= 0)) fail("temperature is {}, expected 0 or more", options.temperature);
  if (!(options.top_p > 0 && options.top_p <= 1))
    fail("top_p is {}, expected more than 0 and at most 1", options.top_p);
  for (float logit : logits_V)
    if (!std::isfinite(logit)) fail("the model's logits are not finite at position {}", position);
  const auto best = std::max_element(logits_V.begin(), logits_V.end());
  if (options.temperature == 0) return static_cast<int32_t>(best - logits_V.begin());

  std::vector<double> weights(logits_V.size());
  double total = 0;
  for (size_t v = 0; v < weights.size(); ++v) {
    weights[v] =
        portable::exp((static_cast<double>(logits_V[v]) - static_cast<double>(*best)) / options.temperature);
    total += weights[v];
  }
  std::vector<int32_t> order(weights.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return weights[static_cast<size_t>(a)] > weights[static_cast<size_t>(b)];
  });
  size_t kept = 0;
  double kept_weight = 0;
  while (kept < order.size() && (kept == 0 || kept_weight < options.top_p * total))
    kept_weight += weights[static_cast<size_t>(order[kept++])];

  Random random(options.seed, static_cast<uint64_t>(position));
  double left = random.uniform() * kept_weight;
  for (size_t i = 0; i < kept; ++i) {
    left -= weights[static_cast<size_t>(order[i])];
    if (left < 0) return order[i];
  }
  return order[kept - 1];
}

}  // namespace moray
