// T tokens, E experts, K experts a token, S samples.
#include "ops/route.h"

#include <limits>

#include "backend/cpu/dispatch.h"
#include "backend/cpu/kernels_list.h"
#include "backend/cpu/pieces.h"
#include "backend/cpu/select_experts.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/route.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h, as Highway wants it.
#include "backend/cpu/lanes-inl.h"
#include "backend/cpu/vector_math.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {
namespace {

HWY_INLINE float sum_of(const float* x, int64_t n) {
  return sum_in_lanes(
      n, [&](int64_t i, auto lanes, FloatVec& sum) HWY_ATTR { sum = hn::Add(sum, lanes.load(x + i)); });
}

HWY_INLINE float dot(const float* a, const float* b, int64_t n) {
  return sum_in_lanes(n, [&](int64_t i, auto lanes, FloatVec& sum)
                             HWY_ATTR { sum = hn::MulAdd(lanes.load(a + i), lanes.load(b + i), sum); });
}

void softmax_row(const float* logits, int64_t experts, float* scores) {
  float greatest = logits[0];
  for (int64_t e = 1; e < experts; ++e) greatest = logits[e] > greatest ? logits[e] : greatest;
  for_vectors(experts, [&](int64_t i, auto lanes) HWY_ATTR {
    lanes.store(vector_exp(FloatTag(), hn::Sub(lanes.load(logits + i), splat(greatest))), scores + i);
  });
  const FloatVec total = splat(sum_of(scores, experts));
  for_vectors(experts, [&](int64_t i, auto lanes)
                           HWY_ATTR { lanes.store(hn::Div(lanes.load(scores + i), total), scores + i); });
}

void scores_row(ScoringFunc scoring_func, const float* logits, int64_t experts, float* scores) {
  if (scoring_func == ScoringFunc::softmax) return softmax_row(logits, experts, scores);
  for_vectors(experts, [&](int64_t i, auto lanes) HWY_ATTR {
    lanes.store(vector_sigmoid(FloatTag(), lanes.load(logits + i)), scores + i);
  });
}

// Keeps the denominator of normalised gates above 0, as the published code does.
constexpr float kGateEpsilon = 1e-20f;

// What the scores of the selected experts are multiplied with to become gates.
float gate_factor(const RouterConfig& config, const float* scores, const int32_t* ids) {
  const auto factor = static_cast<float>(config.routed_scaling_factor);
  if (!config.norm_topk_prob) return factor;
  float sum = 0;
  for (int64_t k = 0; k < config.num_experts_per_tok; ++k) sum += scores[ids[k]];
  return factor / (sum + kGateEpsilon);
}

void forward(Exec& exec, const Tensor& logits_TE, const Tensor& bias_E, const RouterConfig& config,
             bool ids_given, const Tensor& scores_TE, const Tensor& ids_TK, const Tensor& gates_TK) {
  const int64_t experts = logits_TE.extent(1), choices = config.num_experts_per_tok;
  const float *logits_all = logits_TE.data<float>(),
              *bias = bias_E.defined() ? bias_E.data<float>() : nullptr;
  float *scores_all = scores_TE.data<float>(), *gates_all = gates_TK.data<float>();
  int32_t* ids_all = ids_TK.data<int32_t>();
  // Selection is scalar: an expert costs about as much as 16 elements elsewhere.
  exec.pool->for_ranges(logits_TE.extent(0), rows_per_piece(16 * experts),
                        [&](int64_t begin, int64_t end, int) HWY_ATTR {
                          for (int64_t t = begin; t < end; ++t) {
                            float* scores = scores_all + t * experts;
                            int32_t* ids = ids_all + t * choices;
                            scores_row(config.scoring_func, logits_all + t * experts, experts, scores);
                            if (!ids_given) select_experts(scores, bias, experts, config, ids);
                            const float factor = gate_factor(config, scores, ids);
                            for (int64_t k = 0; k < choices; ++k)
                              gates_all[t * choices + k] = scores[ids[k]] * factor;
                          }
                        });
}

// Adds to dscores what the gates' gradients say: g = factor·s, or factor·s/Σs when normalised.
void add_gate_gradients(const RouterConfig& config, const float* dgates, const float* scores,
                        const int32_t* ids, float* dscores) {
  const float factor = gate_factor(config, scores, ids);
  float along_sum = 0;  // Σ dg·g, the part that flows through the denominator
  if (config.norm_topk_prob) {
    float sum = 0, weighted = 0;
    for (int64_t k = 0; k < config.num_experts_per_tok; ++k) {
      sum += scores[ids[k]];
      weighted += dgates[k] * scores[ids[k]];
    }
    along_sum = weighted / (sum + kGateEpsilon);
  }
  for (int64_t k = 0; k < config.num_experts_per_tok; ++k)
    dscores[ids[k]] += factor * (dgates[k] - along_sum);
}

void backward(Exec& exec, const Tensor& dgates_TK, const Tensor& scores_TE, const Tensor& ids_TK,
              const RouterConfig& config, const Tensor& dscores_TE, const Tensor& dlogits_TE) {
  const int64_t experts = scores_TE.extent(1), choices = config.num_experts_per_tok;
  const float *dgates = dgates_TK.data<float>(), *scores_all = scores_TE.data<float>();
  const float* dscores_all = dscores_TE.defined() ? dscores_TE.data<float>() : nullptr;
  const int32_t* ids = ids_TK.data<int32_t>();
  float* dlogits_all = dlogits_TE.data<float>();
  exec.pool->for_ranges(
      scores_TE.extent(0), rows_per_piece(4 * experts), [&](int64_t begin, int64_t end, int) HWY_ATTR {
        for (int64_t t = begin; t < end; ++t) {
          const float* scores = scores_all + t * experts;
          float* d = dlogits_all + t * experts;  // holds dscores until the last step
          for (int64_t e = 0; e < experts; ++e)
            d[e] = dscores_all != nullptr ? dscores_all[t * experts + e] : 0.0f;
          add_gate_gradients(config, dgates + t * choices, scores, ids + t * choices, d);
          const bool softmax = config.scoring_func == ScoringFunc::softmax;
          const FloatVec mean = splat(softmax ? dot(d, scores, experts) : 0.0f), one = splat(1.0f);
          for_vectors(experts, [&](int64_t i, auto lanes) HWY_ATTR {
            const FloatVec s = lanes.load(scores + i), ds = lanes.load(d + i);
            const FloatVec result =
                softmax ? hn::Mul(s, hn::Sub(ds, mean)) : hn::Mul(hn::Mul(ds, s), hn::Sub(one, s));
            lanes.store(result, d + i);
          });
        }
      });
}

// Over rows [begin, end): mean_E += s/Σs row after row from 0, count_E = how often an expert is among the top
// K.
void balance_block(const float* scores_all, int64_t begin, int64_t end, int64_t experts, int64_t choices,
                   float* mean, float* count) {
  for (int64_t e = 0; e < experts; ++e) mean[e] = count[e] = 0;
  for (int64_t t = begin; t < end; ++t) {
    const float* scores = scores_all + t * experts;
    const FloatVec total = splat(sum_of(scores, experts));
    for_vectors(experts, [&](int64_t i, auto lanes) HWY_ATTR {
      const FloatVec share = hn::Div(lanes.load(scores + i), total);
      lanes.store(hn::Add(lanes.load(mean + i), share), mean + i);
    });
    for_top(scores, experts, choices, [&](int64_t e) { count[e] += 1; });
  }
}

void balance_forward(Exec& exec, const Tensor& scores_TE, int64_t samples, int64_t choices,
                     const Tensor& fraction_SE, const Tensor& loss_S) {
  const int64_t experts = scores_TE.extent(1), rows = scores_TE.extent(0) / samples;
  const int64_t blocks = (rows + kRowBlock - 1) / kRowBlock;
  const float* scores = scores_TE.data<float>();
  const Tensor parts_BE = exec.empty_wide({samples * blocks, 2, experts});
  float* parts = parts_BE.data<float>();
  exec.pool->for_each(samples * blocks, [&](int64_t index, int) HWY_ATTR {
    const int64_t sample = index / blocks, first = index % blocks * kRowBlock;
    float* mean = parts + 2 * index * experts;
    balance_block(scores, sample * rows + first, sample * rows + std::min(first + kRowBlock, rows), experts,
                  choices, mean, mean + experts);
  });
  float *fraction_all = fraction_SE.data<float>(), *loss = loss_S.data<float>();
  const float to_fraction =
      static_cast<float>(static_cast<double>(experts) / static_cast<double>(choices * rows));
  for (int64_t sample = 0; sample < samples; ++sample) {
    float* run = parts + 2 * sample * blocks * experts;  // block 0, which the others are added to in order
    for (int64_t block = 1; block < blocks; ++block)
      for (int64_t i = 0; i < 2 * experts; ++i) run[i] += run[2 * block * experts + i];
    float* fraction = fraction_all + sample * experts;
    for (int64_t e = 0; e < experts; ++e) {
      fraction[e] = run[experts + e] * to_fraction;
      run[e] /= static_cast<float>(rows);
    }
    loss[sample] = dot(fraction, run, experts);
  }
}

void balance_backward(Exec& exec, const Tensor& scores_TE, const Tensor& fraction_SE, int64_t samples,
                      double coefficient, const Tensor& dscores_TE) {
  const int64_t experts = scores_TE.extent(1), rows = scores_TE.extent(0) / samples;
  const float *scores_all = scores_TE.data<float>(), *fraction_all = fraction_SE.data<float>();
  float* dscores_all = dscores_TE.data<float>();
  const auto per_row = static_cast<float>(coefficient / static_cast<double>(rows));
  exec.pool->for_ranges(
      scores_TE.extent(0), rows_per_piece(experts), [&](int64_t begin, int64_t end, int) HWY_ATTR {
        for (int64_t t = begin; t < end; ++t) {
          const float *scores = scores_all + t * experts, *fraction = fraction_all + t / rows * experts;
          float* dscores = dscores_all + t * experts;
          const float total = sum_of(scores, experts);
          const FloatVec mean = splat(dot(fraction, scores, experts) / total), scale = splat(per_row / total);
          for_vectors(experts, [&](int64_t i, auto lanes) HWY_ATTR {
            lanes.store(hn::Mul(scale, hn::Sub(lanes.load(fraction + i), mean)), dscores + i);
          });
        }
      });
}

RouteKernels kernel_table() {
  return {forward, backward, balance_forward, balance_backward};
}

}  // namespace
}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moray::cpu {
namespace {
HWY_EXPORT(kernel_table);
RouteKernels table() {
  return HWY_DYNAMIC_DISPATCH(kernel_table)();
}
}  // namespace

void register_route() {
  kernels<RouteKernels>(Device::cpu) = {
      dispatched<&RouteKernels::forward, table>, dispatched<&RouteKernels::backward, table>,
      dispatched<&RouteKernels::balance_forward, table>, dispatched<&RouteKernels::balance_backward, table>};
}

}  // namespace moray::cpu
#endif  // HWY_ONCE
