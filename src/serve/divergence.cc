#include "serve/divergence.h"

#include <algorithm>
#include <vector>

#include "base/math.h"

namespace moray {

namespace {

struct Row {
  double divergence = 0, model_nats = 0, original_nats = 0;
  bool same_top = false;
};

double log_sum_exp(std::span<const float> logits) {
  const auto best = static_cast<double>(*std::ranges::max_element(logits));
  double sum = 0;
  for (float logit : logits) sum += portable::exp(static_cast<double>(logit) - best);
  return best + portable::log(sum);
}

Row compare_row(std::span<const float> model, std::span<const float> original, int32_t next) {
  const double of_model = log_sum_exp(model), of_original = log_sum_exp(original);
  Row row;
  for (size_t v = 0; v < model.size(); ++v) {
    const double log_p = static_cast<double>(original[v]) - of_original;
    row.divergence += portable::exp(log_p) * (log_p - (static_cast<double>(model[v]) - of_model));
  }
  const auto at = static_cast<size_t>(next);
  row.model_nats = of_model - static_cast<double>(model[at]);
  row.original_nats = of_original - static_cast<double>(original[at]);
  const auto top = [](std::span<const float> logits) {
    return std::ranges::max_element(logits) - logits.begin();
  };
  row.same_top = top(model) == top(original);
  return row;
}

}  // namespace

void add_divergence(Exec& exec, const Tensor& model_TV, const Tensor& original_TV,
                    std::span<const int32_t> next, Divergence& sums) {
  MORAY_CHECK(
      model_TV.shape() == original_TV.shape() && model_TV.extent(0) == static_cast<int64_t>(next.size()),
      "{} and {}", model_TV.shape().to_string(), original_TV.shape().to_string());
  std::vector<Row> rows(next.size());
  exec.pool->for_each(model_TV.extent(0), [&](int64_t t, int) {
    rows[static_cast<size_t>(t)] = compare_row(
        model_TV.row(t).span<float>(), original_TV.row(t).span<float>(), next[static_cast<size_t>(t)]);
  });
  for (const Row& row : rows) {
    sums.divergence_nats += row.divergence;
    sums.greatest_nats = std::max(sums.greatest_nats, row.divergence);
    sums.same_top += row.same_top ? 1 : 0;
    sums.model_nats += row.model_nats;
    sums.original_nats += row.original_nats;
  }
  sums.tokens += static_cast<int64_t>(rows.size());
}

}  // namespace moray
