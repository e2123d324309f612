// Rotary angles, with YaRN (facts §2, serving §1): cos and sin of position · frequency for every pair.
//
// P positions, J pairs.
#pragma once

#include <optional>
#include <vector>

#include "runtime/exec.h"

namespace moray {

struct YarnConfig {
  double factor = 1, beta_fast = 32, beta_slow = 1, mscale = 1, mscale_all_dim = 0;
  int64_t original_max_position_embeddings = 4096;
};

// 0.1 · mscale · ln(factor) + 1 (1 when factor ≤ 1)
double yarn_mscale(double factor, double mscale);

// What cos and sin are multiplied with: yarn_mscale of mscale over that of mscale_all_dim.
double yarn_amplitude(const YarnConfig&);

// The angle a position adds to each pair: theta^(−2j/d), for YaRN blended with its 1/factor between the
// dimensions that turn beta_fast and beta_slow times over the original context.
std::vector<double> rope_frequencies(int64_t rope_dim, double theta, const std::optional<YarnConfig>&);

struct RopeTable {
  Tensor cos_PJ, sin_PJ;
};

RopeTable make_rope_table(const Exec&, int64_t positions, int64_t rope_dim, double theta,
                          const std::optional<YarnConfig>&);

// 1 / sqrt(width of a key), times yarn_mscale(factor, mscale_all_dim)² under YaRN.
double mla_softmax_scale(int64_t key_width, const std::optional<YarnConfig>&);

}  // namespace moray
