// T tokens, E experts, K experts a token, S samples.
#include "ops/route.h"

#include <limits>

#include "backend/reference/dispatch.h"
#include "backend/reference/kernels.h"
#include "backend/reference/sums.h"

namespace moray::reference {
namespace {

// The `count` largest values, chosen[i] = 1; among equals the lower index wins.
template <class T>
std::vector<bool> largest(const std::vector<T>& values, int64_t count) {
  std::vector<bool> chosen(values.size());
  for (int64_t n = 0; n < count; ++n) {
    size_t best = values.size();
    for (size_t i = 0; i < values.size(); ++i)
      if (!chosen[i] && (best == values.size() || values[i] > values[best])) best = i;
    chosen[best] = true;
  }
  return chosen;
}

template <class T>
void score_row(const T* logits, int64_t experts, ScoringFunc scoring, T* scores) {
  if (scoring == ScoringFunc::sigmoid) {
    for (int64_t e = 0; e < experts; ++e) scores[e] = sigmoid(logits[e]);
    return;
  }
  const T most = *std::max_element(logits, logits + experts);
  T sum = 0;
  for (int64_t e = 0; e < experts; ++e) sum += scores[e] = std::exp(logits[e] - most);
  for (int64_t e = 0; e < experts; ++e) scores[e] /= sum;
}

template <class T>
T group_score(std::vector<T> members, bool top2) {
  std::sort(members.begin(), members.end(), std::greater<T>());
  return top2 && members.size() > 1 ? members[0] + members[1] : members[0];
}

// Puts the experts of every group but the best `topk_group` at −infinity.
template <class T>
void mask_groups(const RouterConfig& config, std::vector<T>& biased) {
  const int64_t size = static_cast<int64_t>(biased.size()) / config.n_group;
  std::vector<T> group_scores;
  for (int64_t g = 0; g < config.n_group; ++g) {
    const auto begin = biased.begin() + g * size;
    group_scores.push_back(group_score(std::vector<T>(begin, begin + size), config.group_score_top2));
  }
  const std::vector<bool> kept = largest(group_scores, config.topk_group);
  for (size_t e = 0; e < biased.size(); ++e)
    if (!kept[e / static_cast<size_t>(size)]) biased[e] = -std::numeric_limits<T>::infinity();
}

template <class T>
void select_row(const T* scores, const T* bias, int64_t experts, const RouterConfig& config, int32_t* ids) {
  std::vector<T> biased(scores, scores + experts);
  if (bias != nullptr)
    for (int64_t e = 0; e < experts; ++e) biased[static_cast<size_t>(e)] += bias[e];
  if (config.n_group > 1) mask_groups(config, biased);
  const std::vector<bool> chosen = largest(biased, config.num_experts_per_tok);
  for (int64_t e = 0; e < experts; ++e)
    if (chosen[static_cast<size_t>(e)]) *ids++ = static_cast<int32_t>(e);
}

// The gates' divisor: Σ of the selected scores by ascending id, kept away from zero.
template <class T>
T selected_sum(const T* scores, const int32_t* ids, int64_t choices) {
  T sum = 0;
  for (int64_t k = 0; k < choices; ++k) sum += scores[ids[k]];
  return sum + static_cast<T>(1e-20);
}

void forward(Exec&, const Tensor& logits_TE, const Tensor& bias_E, const RouterConfig& config, bool ids_given,
             const Tensor& scores_TE, const Tensor& ids_TK, const Tensor& gates_TK) {
  for_real_type(scores_TE, [&]<class T>(T) {
    const int64_t experts = logits_TE.extent(1), choices = config.num_experts_per_tok;
    const T* bias = bias_E.defined() ? bias_E.data<T>() : nullptr;
    for (int64_t t = 0; t < logits_TE.extent(0); ++t) {
      T* scores = scores_TE.data<T>() + t * experts;
      int32_t* ids = ids_TK.data<int32_t>() + t * choices;
      T* gates = gates_TK.data<T>() + t * choices;
      score_row(logits_TE.data<T>() + t * experts, experts, config.scoring_func, scores);
      if (!ids_given) select_row(scores, bias, experts, config, ids);
      const T divisor = config.norm_topk_prob ? selected_sum(scores, ids, choices) : T{1};
      for (int64_t k = 0; k < choices; ++k)
        gates[k] = scores[ids[k]] / divisor * static_cast<T>(config.routed_scaling_factor);
    }
  });
}

// dscores += what the gates send back: gate_k = scale · s_k / Σ s, or scale · s_k without the norm.
template <class T>
void add_gate_gradients(const T* dgates, const T* scores, const int32_t* ids, const RouterConfig& config,
                        std::vector<T>& dscores) {
  const int64_t choices = config.num_experts_per_tok;
  const T scale = static_cast<T>(config.routed_scaling_factor);
  T divisor = 1, mean = 0;
  if (config.norm_topk_prob) {
    divisor = selected_sum(scores, ids, choices);
    for (int64_t k = 0; k < choices; ++k) mean += dgates[k] * scores[ids[k]];
    mean /= divisor;
  }
  for (int64_t k = 0; k < choices; ++k)
    dscores[static_cast<size_t>(ids[k])] += scale * (dgates[k] - mean) / divisor;
}

void backward(Exec&, const Tensor& dgates_TK, const Tensor& scores_TE, const Tensor& ids_TK,
              const RouterConfig& config, const Tensor& dscores_TE, const Tensor& dlogits_TE) {
  for_real_type(dlogits_TE, [&]<class T>(T) {
    const int64_t experts = scores_TE.extent(1), choices = config.num_experts_per_tok;
    std::vector<T> dscores(static_cast<size_t>(experts));
    for (int64_t t = 0; t < scores_TE.extent(0); ++t) {
      const T* scores = scores_TE.data<T>() + t * experts;
      T* dlogits = dlogits_TE.data<T>() + t * experts;
      std::fill(dscores.begin(), dscores.end(), T{0});
      if (dscores_TE.defined()) std::copy_n(dscores_TE.data<T>() + t * experts, experts, dscores.begin());
      add_gate_gradients(dgates_TK.data<T>() + t * choices, scores, ids_TK.data<int32_t>() + t * choices,
                         config, dscores);
      const bool softmax = config.scoring_func == ScoringFunc::softmax;
      const T mean = softmax ? add_products(T{0}, dscores.data(), 1, scores, 1, experts) : T{0};
      for (int64_t e = 0; e < experts; ++e)
        dlogits[e] = (dscores[static_cast<size_t>(e)] - mean) * scores[e] * (softmax ? T{1} : 1 - scores[e]);
    }
  });
}

void balance_forward(Exec&, const Tensor& scores_TE, int64_t samples, int64_t num_experts_per_tok,
                     const Tensor& fraction_SE, const Tensor& loss_S) {
  for_real_type(scores_TE, [&]<class T>(T) {
    const int64_t experts = scores_TE.extent(1), rows = scores_TE.extent(0) / samples;
    for (int64_t s = 0; s < samples; ++s) {
      std::vector<int64_t> counts(static_cast<size_t>(experts));
      std::vector<T> shares(static_cast<size_t>(experts));
      for (int64_t t = s * rows; t < (s + 1) * rows; ++t) {
        const T* row = scores_TE.data<T>() + t * experts;
        const std::vector<T> scores(row, row + experts);
        const std::vector<bool> chosen = largest(scores, num_experts_per_tok);
        T sum = 0;
        for (T score : scores) sum += score;
        for (size_t e = 0; e < scores.size(); ++e) {
          counts[e] += chosen[e];
          shares[e] += scores[e] / sum;
        }
      }
      T loss = 0;
      for (int64_t e = 0; e < experts; ++e) {
        const size_t i = static_cast<size_t>(e);
        const T fraction = static_cast<T>(experts * counts[i]) / static_cast<T>(num_experts_per_tok * rows);
        fraction_SE.data<T>()[s * experts + e] = fraction;
        loss += fraction * (shares[i] / static_cast<T>(rows));
      }
      loss_S.data<T>()[s] = loss;
    }
  });
}

// ∂/∂s_i Σ_j f_j s_j / Σ s = (f_i − Σ_j f_j s_j / Σ s) / Σ s
void balance_backward(Exec&, const Tensor& scores_TE, const Tensor& fraction_SE, int64_t samples,
                      double coefficient, const Tensor& dscores_TE) {
  for_real_type(dscores_TE, [&]<class T>(T) {
    const int64_t experts = scores_TE.extent(1), rows = scores_TE.extent(0) / samples;
    for (int64_t t = 0; t < scores_TE.extent(0); ++t) {
      const T* scores = scores_TE.data<T>() + t * experts;
      const T* fraction = fraction_SE.data<T>() + t / rows * experts;
      T sum = 0, weighted = 0;
      for (int64_t e = 0; e < experts; ++e) {
        sum += scores[e];
        weighted += fraction[e] * scores[e];
      }
      const T factor = static_cast<T>(coefficient) / (static_cast<T>(rows) * sum);
      for (int64_t e = 0; e < experts; ++e)
        dscores_TE.data<T>()[t * experts + e] = factor * (fraction[e] - weighted / sum);
    }
  });
}

}  // namespace

RouteKernels route_kernels() {
  return {.forward = forward,
          .backward = backward,
          .balance_forward = balance_forward,
          .balance_backward = balance_backward};
}

}  // namespace moray::reference
