#include "nn/rope_table.h"

#include <algorithm>
#include <cmath>

#include "base/math.h"

namespace moray {

namespace {
constexpr double kPi = 3.14159265358979323846;

// The (fractional) pair that turns `rotations` times over the original context.
double pair_of_rotations(double rotations, double rope_dim, double theta, const YarnConfig& yarn) {
  const double positions = static_cast<double>(yarn.original_max_position_embeddings);
  return rope_dim * portable::log(positions / (rotations * 2 * kPi)) / (2 * portable::log(theta));
}
}  // namespace

double yarn_mscale(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * portable::log(factor) + 1;
}

double yarn_amplitude(const YarnConfig& yarn) {
  return yarn_mscale(yarn.factor, yarn.mscale) / yarn_mscale(yarn.factor, yarn.mscale_all_dim);
}

std::vector<double> rope_frequencies(int64_t rope_dim, double theta, const std::optional<YarnConfig>& yarn) {
  const auto dim = static_cast<double>(rope_dim);
  std::vector<double> frequencies(static_cast<size_t>(rope_dim / 2));
  for (size_t j = 0; j < frequencies.size(); ++j)
    frequencies[j] = portable::pow(theta, -2.0 * static_cast<double>(j) / dim);
  if (!yarn) return frequencies;
  const double low = std::max(std::floor(pair_of_rotations(yarn->beta_fast, dim, theta, *yarn)), 0.0);
  double high = std::min(std::ceil(pair_of_rotations(yarn->beta_slow, dim, theta, *yarn)), dim - 1);
  if (high == low) high += 0.001;
  for (size_t j = 0; j < frequencies.size(); ++j) {
    const double ramp = std::clamp((static_cast<double>(j) - low) / (high - low), 0.0, 1.0);
    frequencies[j] = frequencies[j] / yarn->factor * ramp + frequencies[j] * (1 - ramp);
  }
  return frequencies;
}

RopeTable make_rope_table(const Exec& exec, int64_t positions, int64_t rope_dim, double theta,
                          const std::optional<YarnConfig>& yarn) {
  const std::vector<double> frequencies = rope_frequencies(rope_dim, theta, yarn);
  const double amplitude = yarn ? yarn_amplitude(*yarn) : 1.0;
  RopeTable table{exec.empty_wide({positions, rope_dim / 2}), exec.empty_wide({positions, rope_dim / 2})};
  const auto fill = [&]<class T>(T* cos, T* sin) {
    for (int64_t position = 0; position < positions; ++position)
      for (double frequency : frequencies) {
        const double angle = static_cast<double>(position) * frequency;
        *cos++ = static_cast<T>(amplitude * portable::cos(angle));
        *sin++ = static_cast<T>(amplitude * portable::sin(angle));
      }
  };
  if (exec.dtype == DType::f64)
    fill(table.cos_PJ.data<double>(), table.sin_PJ.data<double>());
  else
    fill(table.cos_PJ.data<float>(), table.sin_PJ.data<float>());
  return table;
}

double mla_softmax_scale(int64_t key_width, const std::optional<YarnConfig>& yarn) {
  const double scale = 1 / std::sqrt(static_cast<double>(key_width));
  if (!yarn) return scale;
  const double mscale = yarn_mscale(yarn->factor, yarn->mscale_all_dim);
  return scale * mscale * mscale;
}

}  // namespace moray
