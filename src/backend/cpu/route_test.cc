// The router, its balance loss, and the moves between tokens and experts, against plain computations.
#include "ops/route.h"

#include <algorithm>
#include <numeric>

#include "backend/cpu/kernels_test.h"
#include "ops/permute.h"

namespace moray::cpu::test {
namespace {

float at(const Tensor& x, int64_t i) {
  return x.data<float>()[i];
}

RouterConfig v3_config() {
  return {ScoringFunc::sigmoid, 4, 2, 3, true, 2.5, true};
}
RouterConfig v2_config() {
  return {ScoringFunc::softmax, 1, 1, 5, false, 1.0, false};
}

std::vector<Tensor> routed(Exec& exec, const Tensor& logits, const Tensor& bias, const RouterConfig& config) {
  const Tensor scores = zeros(logits.shape()), gates = zeros({logits.extent(0), config.num_experts_per_tok});
  const Tensor ids = Tensor::zeros(allocator(), gates.shape(), DType::i32);
  route_forward(exec, logits, bias, config, false, scores, ids, gates);
  return {scores, ids, gates};
}

// By full sorts: groups by score, then experts of the kept groups by biased score; ties to the lower id.
std::vector<int32_t> selected(const float* scores, const float* bias, int64_t experts,
                              const RouterConfig& config) {
  const int64_t size = experts / config.n_group;
  const auto biased = [&](int64_t e) { return scores[e] + (bias != nullptr ? bias[e] : 0.0f); };
  std::vector<std::pair<float, int64_t>> groups, candidates;
  for (int64_t g = 0; g < config.n_group; ++g) {
    std::vector<float> best;
    for (int64_t e = g * size; e < (g + 1) * size; ++e) best.push_back(biased(e));
    std::sort(best.rbegin(), best.rend());
    groups.emplace_back(-(config.group_score_top2 ? best[0] + best[1] : best[0]), g);
  }
  std::sort(groups.begin(), groups.end());
  for (int64_t k = 0; k < config.topk_group; ++k)
    for (int64_t e = groups[static_cast<size_t>(k)].second * size, end = e + size; e < end; ++e)
      candidates.emplace_back(-biased(e), e);
  std::sort(candidates.begin(), candidates.end());
  std::vector<int32_t> ids;
  for (int64_t k = 0; k < config.num_experts_per_tok; ++k)
    ids.push_back(static_cast<int32_t>(candidates[static_cast<size_t>(k)].second));
  std::sort(ids.begin(), ids.end());
  return ids;
}

void expect_routed(const RouterConfig& config, int64_t experts, bool with_bias) {
  const int64_t T = 333, K = config.num_experts_per_tok;
  const Tensor logits = random_tensor({T, experts}, 1);
  // Coarse values, so that there are ties.
  for (float& x : logits.span<float>()) x = std::round(4 * x) / 4;
  const Tensor bias = with_bias ? random_tensor({experts}, 2, 0.5) : Tensor();
  const std::vector<Tensor> got =
      same_everywhere([&](Exec& exec) { return routed(exec, logits, bias, config); });
  std::vector<double> scores, gates;
  for (int64_t t = 0; t < T; ++t) {
    double sum = 0;
    for (int64_t e = 0; e < experts; ++e) sum += std::exp(at(logits, t * experts + e));
    for (int64_t e = 0; e < experts; ++e) {
      const double x = at(logits, t * experts + e);
      scores.push_back(config.scoring_func == ScoringFunc::softmax ? std::exp(x) / sum
                                                                   : 1 / (1 + std::exp(-x)));
    }
    const std::vector<int32_t> ids = selected(got[0].data<float>() + t * experts,
                                              with_bias ? bias.data<float>() : nullptr, experts, config);
    double total = 0;
    for (int32_t id : ids) total += at(got[0], t * experts + id);
    for (int64_t k = 0; k < K; ++k) {
      ASSERT_EQ(got[1].data<int32_t>()[t * K + k], ids[static_cast<size_t>(k)]) << "token " << t;
      gates.push_back(at(got[0], t * experts + ids[static_cast<size_t>(k)]) * config.routed_scaling_factor /
                      (config.norm_topk_prob ? total : 1));
    }
  }
  EXPECT_LE(relative_error(got[0], scores), 1e-6);
  EXPECT_LE(relative_error(got[2], gates), 1e-6);
}

TEST(Route, V3) {
  expect_routed(v3_config(), 20, true);
}
TEST(Route, V3WithoutBias) {
  expect_routed(v3_config(), 16, false);
}
TEST(Route, V2) {
  expect_routed(v2_config(), 37, false);
}

TEST(Route, LogitsThatAreNoNumbersStillGiveValidIds) {
  const RouterConfig config = v3_config();
  const Tensor logits = random_tensor({2, 16}, 1);
  for (int64_t e = 0; e < 16; ++e) logits.data<float>()[e] = std::nanf("");
  logits.data<float>()[16 + 3] = std::nanf("");
  const std::vector<Tensor> got =
      same_everywhere([&](Exec& exec) { return routed(exec, logits, {}, config); });
  for (int64_t i = 0; i < 6; ++i) {
    const int32_t id = got[1].data<int32_t>()[i];
    EXPECT_TRUE(id >= 0 && id < 16 && (i % 3 == 0 || id > got[1].data<int32_t>()[i - 1]));
  }
}

// Σ c·gates + Σ a·scores as a function of the logits, with the routing of `ids`, in double.
double weighted_gates(const std::vector<double>& logits, const Tensor& c, const Tensor& a, const Tensor& ids,
                      const RouterConfig& config) {
  const int64_t T = c.extent(0), K = c.extent(1), E = a.extent(1);
  double value = 0;
  for (int64_t t = 0; t < T; ++t) {
    std::vector<double> s(static_cast<size_t>(E));
    double all = 0, chosen = 0;
    for (size_t e = 0; e < s.size(); ++e) all += std::exp(logits[static_cast<size_t>(t * E) + e]);
    for (size_t e = 0; e < s.size(); ++e) {
      const double x = logits[static_cast<size_t>(t * E) + e];
      s[e] = config.scoring_func == ScoringFunc::softmax ? std::exp(x) / all : 1 / (1 + std::exp(-x));
      value += s[e] * at(a, t * E + static_cast<int64_t>(e));
    }
    const auto id = [&](int64_t k) { return static_cast<size_t>(ids.data<int32_t>()[t * K + k]); };
    for (int64_t k = 0; k < K; ++k) chosen += s[id(k)];
    for (int64_t k = 0; k < K; ++k)
      value +=
          at(c, t * K + k) * config.routed_scaling_factor * s[id(k)] / (config.norm_topk_prob ? chosen : 1);
  }
  return value;
}

TEST(Route, BackwardAgainstDifferences) {
  for (const RouterConfig& config : {v3_config(), v2_config()}) {
    const int64_t T = 9, E = 16, K = config.num_experts_per_tok;
    const Tensor logits = random_tensor({T, E}, 1), c = random_tensor({T, K}, 2),
                 a = random_tensor({T, E}, 3);
    Tensor ids;
    const std::vector<Tensor> got = same_everywhere([&](Exec& exec) {
      const std::vector<Tensor> forward = routed(exec, logits, {}, config);
      ids = forward[1];
      const Tensor dlogits = zeros({T, E});
      route_backward(exec, c, forward[0], forward[1], config, a, dlogits);
      return std::vector<Tensor>{dlogits};
    });
    std::vector<double> x, wanted;
    for (float value : logits.span<float>()) x.push_back(value);
    for (double& value : x) {
      const double middle = value, h = 1e-5;
      value = middle + h;
      const double up = weighted_gates(x, c, a, ids, config);
      value = middle - h;
      wanted.push_back((up - weighted_gates(x, c, a, ids, config)) / (2 * h));
      value = middle;
    }
    EXPECT_LE(relative_error(got[0], wanted), 2e-6);
  }
}

TEST(Route, BalanceLoss) {
  const int64_t S = 2, rows = 200, T = S * rows, E = 19, K = 3;
  const Tensor scores = random_tensor({T, E}, 1);
  for (float& s : scores.span<float>()) s = 0.1f + std::abs(s);
  const std::vector<Tensor> got = same_everywhere([&](Exec& exec) {
    const Tensor fraction = zeros({S, E}), loss = zeros({S}), dscores = zeros({T, E});
    balance_loss_forward(exec, scores, S, K, fraction, loss);
    balance_loss_backward(exec, scores, fraction, S, 0.5, dscores);
    return std::vector<Tensor>{fraction, loss, dscores};
  });
  const RouterConfig plain = {ScoringFunc::sigmoid, 1, 1, K, false, 1, false};
  std::vector<double> fraction(static_cast<size_t>(S * E)), mean(fraction.size()), loss(S), dscores;
  for (int64_t t = 0; t < T; ++t) {
    const float* s = scores.data<float>() + t * E;
    const double total = std::accumulate(s, s + E, 0.0);
    for (int32_t id : selected(s, nullptr, E, plain))
      fraction[static_cast<size_t>(t / rows * E + id)] +=
          static_cast<double>(E) / static_cast<double>(K * rows);
    for (int64_t e = 0; e < E; ++e) mean[static_cast<size_t>(t / rows * E + e)] += s[e] / total / rows;
  }
  for (size_t i = 0; i < fraction.size(); ++i) loss[i / E] += fraction[i] * mean[i];
  for (int64_t t = 0; t < T; ++t) {
    const float* s = scores.data<float>() + t * E;
    const double* f = fraction.data() + t / rows * E;
    const double total = std::accumulate(s, s + E, 0.0);
    double along = 0;
    for (int64_t e = 0; e < E; ++e) along += f[e] * s[e] / total;
    for (int64_t e = 0; e < E; ++e) dscores.push_back(0.5 / (rows * total) * (f[e] - along));
  }
  EXPECT_LE(relative_error(got[0], fraction), 1e-6);
  EXPECT_LE(relative_error(got[1], loss), 1e-6);
  EXPECT_LE(relative_error(got[2], dscores), 2e-6);
}

TEST(Permute, PlanGatherCombine) {
  const int64_t S = 2, T = 2 * 1300, K = 3, E = 12, D = 37;  // samples of more than one counting piece
  std::vector<int32_t> ids;
  for (uint64_t t = 0; t < static_cast<uint64_t>(T); ++t) {
    const auto first = static_cast<int32_t>(mix64(t) % 6);  // expert 11 gets no token
    for (int32_t id : {first, first + 2, first + 5}) ids.push_back(id);
  }
  const Tensor ids_TK = i32_tensor(ids, {T, K}), x = random_tensor({T, D}, 1),
               gates = random_tensor({T, K}, 2);
  const Tensor before = random_tensor({T, D}, 3);
  DispatchPlan plan;
  const std::vector<Tensor> got = same_everywhere([&](Exec& exec) {
    plan = allocate_dispatch_plan(exec, T, K, E, S);
    dispatch_plan(exec, ids_TK, plan);
    const Tensor rows = zeros({T * K, D}), out = zeros({T, D}), added = copy_of(before),
                 values = zeros({T * K});
    gather_rows(exec, x, plan.token_R, rows);
    combine_rows(exec, rows, gates, ids_TK, plan.row_TK, 4, out);
    combine_rows(exec, rows, {}, ids_TK, plan.row_TK, 4, added, true);
    gather_values(exec, gates, plan.choice_R, values);
    return std::vector<Tensor>{rows, out, added, values, plan.rows.offsets_ES, plan.token_R, plan.row_TK};
  });
  // The plan against a stable sort of the choices by (expert, sample).
  std::vector<int32_t> order(static_cast<size_t>(T * K));
  std::iota(order.begin(), order.end(), 0);
  const auto cell = [&](int32_t c) { return ids[static_cast<size_t>(c)] * S + c / K / (T / S); };
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return cell(a) < cell(b); });
  for (int64_t r = 0; r < T * K; ++r) {
    const int32_t choice = order[static_cast<size_t>(r)];
    ASSERT_EQ(plan.choice_R.data<int32_t>()[r], choice);
    ASSERT_EQ(plan.token_R.data<int32_t>()[r], choice / K);
    ASSERT_EQ(plan.row_TK.data<int32_t>()[choice], r);
    ASSERT_EQ(at(got[3], r), at(gates, choice));
    ASSERT_EQ(at(got[0], r * D + 5), at(x, choice / K * D + 5));
  }
  for (int64_t i = 0; i < E * S; ++i)
    EXPECT_EQ(plan.rows.offsets_ES.data<int32_t>()[i],
              std::count_if(order.begin(), order.end(), [&](int32_t c) { return cell(c) < i; }));
  // Sums in the canonical order: groups of four experts, then groups.
  for (int64_t t = 0; t < T; ++t)
    for (int64_t i = 0; i < D; ++i) {
      float group[3] = {}, plain_group[3] = {};
      for (int64_t k = 0; k < K; ++k) {
        const int32_t g = ids[static_cast<size_t>(t * K + k)] / 4;
        group[g] = std::fma(at(gates, t * K + k), at(x, t * D + i), group[g]);
        plain_group[g] += at(x, t * D + i);
      }
      ASSERT_EQ(at(got[1], t * D + i), (group[0] + group[1]) + group[2]);
      ASSERT_EQ(at(got[2], t * D + i),
                at(before, t * D + i) + ((plain_group[0] + plain_group[1]) + plain_group[2]));
    }
}

}  // namespace
}  // namespace moray::cpu::test
