#include "plan/search.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "report/progress.h"

namespace moray::plan {

namespace {

// "needs 92 GB" and "needs 97 GB" are one reason.
std::string without_numbers(const std::string& reason) {
  std::string general;
  for (size_t i = 0; i < reason.size(); ++i) {
    const bool digit = std::isdigit(static_cast<unsigned char>(reason[i])) != 0;
    // A digit within a word (fp8, zb1p) belongs to it.
    const bool starts = digit && (i == 0 || !std::isalpha(static_cast<unsigned char>(reason[i - 1])));
    if (!starts) {
      general.push_back(reason[i]);
      continue;
    }
    general.push_back('N');
    while (i + 1 < reason.size() &&
           (std::isdigit(static_cast<unsigned char>(reason[i + 1])) || reason[i + 1] == '.'))
      ++i;
  }
  return general;
}

std::vector<int64_t> powers_of_two(int64_t most) {
  std::vector<int64_t> powers;
  for (int64_t p = 1; p <= most; p *= 2) powers.push_back(p);
  return powers;
}

constexpr const char* kUneven = "the batch cannot be spread evenly over data ranks and micro-batches";

// Splits the batch, or leaves micro_batches 0.
void spread_batch(Layout& layout, int64_t sequences) {
  const int64_t a_micro_batch = layout.data * layout.micro_batch;
  layout.micro_batches = sequences % a_micro_batch == 0 ? sequences / a_micro_batch : 0;
}

std::string why_excluded(const PlanInput& input, const Layout& layout, const Imbalance& imbalance,
                         const std::vector<StageContent>& stages, Candidate& candidate) {
  const MemoryPlan memory = plan_memory(input.model, layout, imbalance, stages);
  candidate.memory_bytes = memory.ranks[memory.worst].total();
  if (candidate.memory_bytes <= input.cluster.memory_bytes.value) return "";
  return "needs more memory than the GPU has";
}

// Fills the candidate, or returns why it is out.
std::string judge(const PlanInput& base, const Layout& layout, Candidate& candidate) {
  if (layout.micro_batches == 0) return kUneven;
  if (const std::string why = layout.objection(base.model, base.cluster); !why.empty()) return why;
  PlanInput input = base;
  input.layout = layout;
  const std::vector<StageContent> stages = cut_stages(input.model, layout, input.cluster, input.rates);
  const std::string why = why_excluded(input, layout, imbalance_of(input), stages, candidate);
  if (!why.empty()) return why;
  const Plan plan = make_plan(input);
  candidate.layout = layout;
  candidate.tokens_a_second_a_gpu = plan.sustained;
  candidate.days = plan.days;
  candidate.dollars = plan.dollars;
  return "";
}

}  // namespace

std::vector<Layout> enumerate_layouts(const PlanInput& input, const SearchSpace& space) {
  std::vector<Layout> layouts;
  Layout layout = input.layout;
  const bool fp8 = input.cluster.has_fp8();
  layout.precision = fp8 ? layout.precision : Precision::bf16;
  const int64_t most_experts = std::max<int64_t>(1, input.model.n_routed_experts);
  for (int64_t gpus : space.gpus)
    for (int64_t pipeline : powers_of_two(std::min<int64_t>(gpus, input.model.num_hidden_layers)))
      for (int64_t tensor : powers_of_two(
               std::min<int64_t>(static_cast<int64_t>(input.cluster.gpus_per_node.value), gpus / pipeline))) {
        if (gpus % (pipeline * tensor) != 0) continue;
        for (int64_t expert : powers_of_two(std::min(most_experts, gpus / pipeline)))
          for (ScheduleKind schedule : {ScheduleKind::kOneFOneB, ScheduleKind::kZb1p, ScheduleKind::kDualPipe,
                                        ScheduleKind::kDualPipeV})
            for (int64_t micro_batch : {1, 2})
              for (int64_t zero : {1, 3})
                for (bool full : {false, true}) {
                  layout.pipeline = pipeline;
                  layout.tensor = tensor;
                  layout.data = gpus / (pipeline * tensor);
                  layout.expert = expert;
                  layout.schedule = schedule;
                  layout.micro_batch = micro_batch;
                  layout.zero_stage = zero;
                  layout.recompute.layer = full;
                  spread_batch(layout, space.sequences_a_step);
                  layouts.push_back(layout);
                }
      }
  if (layouts.size() > space.most_layouts)
    fail("search: {} layouts, more than {}; give fewer numbers of GPUs", layouts.size(), space.most_layouts);
  return layouts;
}

SearchResult search_layouts(const PlanInput& input, const SearchSpace& space) {
  for (int64_t gpus : space.gpus)
    if (gpus < 1 || gpus > int64_t{1} << 20)
      fail("search: {} GPUs, expected 1 to {}", gpus, int64_t{1} << 20);
  if (space.sequences_a_step < 1) fail("search: a batch of {} sequences", space.sequences_a_step);
  SearchResult result;
  result.space = space;
  const std::vector<Layout> layouts = enumerate_layouts(input, space);
  Progress progress("search", static_cast<int64_t>(layouts.size()), "layouts");
  for (const Layout& layout : layouts) {
    Candidate candidate;
    if (const std::string why = judge(input, layout, candidate); !why.empty())
      ++result.excluded[without_numbers(why)];
    else
      result.fitting.push_back(candidate);
    progress.update(static_cast<int64_t>(++result.tried));
  }
  const auto better = [&](const Candidate& a, const Candidate& b) {
    return space.rank_by == RankBy::cost ? a.dollars < b.dollars : a.days < b.days;
  };
  // Free hours still have an order: fewer of them.
  const bool free = input.cluster.price_per_gpu_hour.value == 0;
  const auto faster = [](const Candidate& a, const Candidate& b) {
    return a.tokens_a_second_a_gpu > b.tokens_a_second_a_gpu;
  };
  if (free && space.rank_by == RankBy::cost)
    std::stable_sort(result.fitting.begin(), result.fitting.end(), faster);
  else
    std::stable_sort(result.fitting.begin(), result.fitting.end(), better);
  return result;
}

namespace {

// Where nothing fits because most layouts have more data ranks than the batch has sequences for.
std::string what_to_change(const SearchResult& result) {
  const auto uneven = result.excluded.find(kUneven);
  if (uneven == result.excluded.end() || 2 * uneven->second <= static_cast<int64_t>(result.tried)) return "";
  return fmt::format(
      "most cannot spread a step of {} {} over their ranks: give it more with --sequences, best a multiple "
      "of {}\n",
      result.space.sequences_a_step, result.space.sequences_a_step == 1 ? "sequence" : "sequences",
      *std::max_element(result.space.gpus.begin(), result.space.gpus.end()));
}

}  // namespace

std::string search_table(const SearchResult& result, const PlanInput& input, size_t most) {
  std::string text =
      fmt::format("{} layouts tried, {} fit {}\n", result.tried, result.fitting.size(), input.cluster.name);
  if (result.fitting.empty())
    text += what_to_change(result);
  else
    text +=
        fmt::format("\n{:>6} {:>9} {:>7} {:>6} {:>8}  {}\n", "GPUs", "tokens/s", "days", "GB", "$", "layout");
  for (size_t i = 0; i < std::min(most, result.fitting.size()); ++i) {
    const Candidate& c = result.fitting[i];
    text += fmt::format("{:>6} {:>9.0f} {:>7.1f} {:>6.1f} {:>8}  {} micro-batch {}{}\n", c.layout.gpus(),
                        c.tokens_a_second_a_gpu, c.days, c.memory_bytes / 1e9, short_count(c.dollars),
                        layout_name(c.layout), c.layout.micro_batch,
                        c.layout.recompute.layer ? " full recomputation" : "");
  }
  text += "\nexcluded\n";
  for (const auto& [reason, count] : result.excluded) text += fmt::format("{:>6}  {}\n", count, reason);
  return text;
}

nlohmann::ordered_json search_json(const SearchResult& result) {
  nlohmann::ordered_json json = {{"tried", result.tried}, {"layouts", nlohmann::ordered_json::array()}};
  for (const Candidate& c : result.fitting)
    json["layouts"].push_back({{"layout", layout_name(c.layout)},
                               {"gpus", c.layout.gpus()},
                               {"pipeline", c.layout.pipeline},
                               {"expert", c.layout.expert},
                               {"data", c.layout.data},
                               {"tensor", c.layout.tensor},
                               {"zero_stage", c.layout.zero_stage},
                               {"micro_batch", c.layout.micro_batch},
                               {"micro_batches", c.layout.micro_batches},
                               {"schedule", schedule_name(c.layout.schedule)},
                               {"full_recomputation", c.layout.recompute.layer},
                               {"memory_bytes", c.memory_bytes},
                               {"tokens_a_second_a_gpu", c.tokens_a_second_a_gpu},
                               {"days", c.days},
                               {"dollars", c.dollars}});
  json["excluded"] = result.excluded;
  return json;
}

}  // namespace moray::plan
