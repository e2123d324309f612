// Search over layouts: which fit, how fast they are, why the others are out.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "plan/plan.h"

namespace moray::plan {

enum class RankBy { cost, time };

struct SearchSpace {
  std::vector<int64_t> gpus;     // numbers of GPUs to try
  int64_t sequences_a_step = 0;  // the global batch, held fixed
  RankBy rank_by = RankBy::cost;
  size_t most_layouts = 20000;  // Error beyond
};

struct Candidate {
  Layout layout;
  double memory_bytes = 0;  // of the fullest rank
  double tokens_a_second_a_gpu = 0;
  double days = 0;
  double dollars = 0;
};

struct SearchResult {
  std::vector<Candidate> fitting;           // best first; ties in order of enumeration
  std::map<std::string, int64_t> excluded;  // reason (numbers as N): how many layouts
  size_t tried = 0;
  SearchSpace space;  // that was searched
};

// Every product of pipeline, tensor and expert ranks (powers of two), schedules, micro-batches of 1 and 2
// samples, ZeRO 1 and 3, selective and full recomputation; the rest is the input's. The batch must be spread
// evenly.
std::vector<Layout> enumerate_layouts(const PlanInput& input, const SearchSpace& space);

SearchResult search_layouts(const PlanInput& input, const SearchSpace& space);

// `most` best, then the reasons.
std::string search_table(const SearchResult& result, const PlanInput& input, size_t most);
nlohmann::ordered_json search_json(const SearchResult& result);

}  // namespace moray::plan
