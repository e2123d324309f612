#include "backend/cpu/select_experts.h"

#include <algorithm>
#include <vector>

namespace moray::cpu {

namespace {

// One thread's working arrays; they keep their capacity from token to token.
struct Selection {
  std::vector<float> biased, group_scores;
  std::vector<int64_t> candidates;  // the experts of the kept groups, ascending
};

float group_score(const float* biased, int64_t size, bool top2) {
  float sum = 0;
  for_top(biased, size, std::min<int64_t>(top2 ? 2 : 1, size), [&](int64_t e) { sum += biased[e]; });
  return sum;
}

void keep_best_groups(const RouterConfig& config, int64_t experts, Selection& s) {
  const int64_t group_size = experts / config.n_group;
  s.group_scores.resize(static_cast<size_t>(config.n_group));
  for (int64_t g = 0; g < config.n_group; ++g)
    s.group_scores[static_cast<size_t>(g)] =
        group_score(s.biased.data() + g * group_size, group_size, config.group_score_top2);
  s.candidates.clear();
  for_top(s.group_scores.data(), config.n_group, config.topk_group, [&](int64_t g) {
    for (int64_t e = g * group_size; e < (g + 1) * group_size; ++e) s.candidates.push_back(e);
  });
  std::sort(s.candidates.begin(), s.candidates.end());
}

}  // namespace

void select_experts(const float* scores, const float* bias, int64_t experts, const RouterConfig& config,
                    int32_t* ids) {
  static thread_local Selection s;
  s.biased.resize(static_cast<size_t>(experts));
  for (size_t e = 0; e < s.biased.size(); ++e) s.biased[e] = scores[e] + (bias != nullptr ? bias[e] : 0.0f);
  int32_t* next = ids;
  if (config.topk_group == config.n_group) {
    for_top(s.biased.data(), experts, config.num_experts_per_tok,
            [&](int64_t e) { *next++ = static_cast<int32_t>(e); });
  } else {
    keep_best_groups(config, experts, s);
    for (size_t i = 0; i < s.candidates.size();
         ++i)  // ascending, so nothing is overwritten before it is read
      s.biased[i] = s.biased[static_cast<size_t>(s.candidates[i])];
    for_top(s.biased.data(), static_cast<int64_t>(s.candidates.size()), config.num_experts_per_tok,
            [&](int64_t i) { *next++ = static_cast<int32_t>(s.candidates[static_cast<size_t>(i)]); });
  }
  std::sort(ids, next);
}

}  // namespace moray::cpu
