#include "tensor/int_rows.h"

#include <algorithm>
#include <array>
#include <cfloat>
#include <cmath>
#include <limits>

namespace moray {

namespace {

constexpr int kMostCode = 127;
constexpr int kMostSubScale = 15, kMostZero = 15, kFirstZero = 7;
constexpr float kLeast = 0x1p-100f;  // numbers below are 0
// Blocks with larger numbers are made smaller by a power of two first: 128 squares of them are far from
// infinity.
constexpr float kMost = 0x1p40f;

using GroupCodes = std::array<float, static_cast<size_t>(kInt4Group)>;

float largest_magnitude(std::span<const float> x) {
  float most = 0;
  for (float value : x) most = std::max(most, std::abs(value));
  return most;
}

// A block in reach of the search, and the power of two that is taken out of it.
class Tamed {
 public:
  explicit Tamed(std::span<const float> x) : x_(x) {
    const float amax = largest_magnitude(x);
    if (amax <= kMost) return;
    factor_ = std::exp2(static_cast<float>(std::ilogb(amax)));
    std::ranges::transform(x, smaller_.begin(), [&](float value) { return value / factor_; });
    x_ = std::span(smaller_).first(x.size());
  }
  Tamed(const Tamed&) = delete;
  Tamed& operator=(const Tamed&) = delete;

  std::span<const float> numbers() const { return x_; }
  float factor() const { return factor_; }

 private:
  std::array<float, kIntBlock> smaller_;
  std::span<const float> x_;
  float factor_ = 1;
};

bool all_finite(std::span<const float> x) {
  return std::ranges::all_of(x, [](float value) { return std::isfinite(value); });
}

// Of the pairs of elements: Σ (x − step·c)², Σ x·c, Σ c².
struct Sums {
  float error = 0, x_code = 0, code_code = 0;
};

// What the codes of 8 bits at 1 / step leave.
Sums try_int8(std::span<const float> x, float step, int8_t* codes) {
  Sums sums;
  for (size_t i = 0; i < x.size(); ++i) {
    const float code = std::clamp(std::nearbyint(x[i] / step), -float{kMostCode}, float{kMostCode});
    const float off = x[i] - code * step;
    codes[i] = static_cast<int8_t>(code);
    sums.error += off * off;
    sums.x_code += x[i] * code;
    sums.code_code += code * code;
  }
  return sums;
}

float quantize_block_int8(std::span<const float> x, int8_t* codes) {
  const float amax = largest_magnitude(x);
  if (amax < kLeast) {
    std::fill_n(codes, x.size(), int8_t{0});
    return 0;
  }
  std::array<int8_t, kIntBlock> tried;
  float best = std::numeric_limits<float>::infinity(), scale = 0;
  for (const float steps : {127.0f, 127.49f, 128.5f, 130.0f}) {
    const Sums sums = try_int8(x, amax / steps, tried.data());
    if (!(sums.error < best)) continue;
    best = sums.error;
    scale = sums.x_code / sums.code_code;
    std::copy_n(tried.begin(), x.size(), codes);
  }
  return scale;
}

// The group's codes with the zero point `zero` (7 + z) in half steps, at `half` the step; the squared error.
// 2q − zero = x / half, so q = (x / half + zero) / 2.
[[gnu::target("avx2")]] float int4_error(const float* x, float half, float zero, GroupCodes& codes) {
  const float inverse = 0.5f / half, middle = 0.5f * zero + 0.5f;
  GroupCodes square;  // of what each code leaves; a loop of its own, which compilers make vectors of
  for (size_t i = 0; i < codes.size(); ++i) {
    const auto q = static_cast<int32_t>(x[i] * inverse + middle);  // some hundreds at most
    const auto code = static_cast<float>(std::clamp(q, 0, 15));
    const float off = x[i] - half * (2 * code - zero);
    codes[i] = code;
    square[i] = off * off;
  }
  for (size_t width = codes.size() / 2; width > 0; width /= 2)
    for (size_t i = 0; i < width; ++i) square[i] += square[i + width];
  return square[0];
}

struct GroupFit {
  float error = std::numeric_limits<float>::infinity();
  float half = 0;  // step
  int sub_scale = 1, zero = kFirstZero;
  GroupCodes codes{};
};

// The best of three zero points around the one that puts the group's middle at the codes' middle.
void try_zeros(const float* x, float half, float middle, int sub_scale, GroupFit& best) {
  GroupCodes codes;
  const auto around = static_cast<int>(std::lrint(std::clamp(15 - middle / half, 0.0f, 100.0f)));
  for (int zero = around - 1; zero <= around + 1; ++zero) {
    const int allowed = std::clamp(zero, kFirstZero, kFirstZero + kMostZero);
    const float error = int4_error(x, half, static_cast<float>(allowed), codes);
    if (error < best.error) best = {error, half, sub_scale, allowed, codes};
  }
}

struct Range {
  float low, high;
  float middle() const { return 0.5f * (low + high); }
  // Half the step with which every number has a code, for some zero point.
  float half() const {
    constexpr float kReach = 2 * 15 - kFirstZero, kDown = kFirstZero + kMostZero;
    return std::max({(high - low) / 30, high / kReach, -low / kDown});
  }
};

// The half step a group would have on its own; 0 where all is 0.
float free_half(const float* x, Range range) {
  const float widest = range.half();
  if (widest < kLeast) return 0;
  GroupFit best;
  for (const float share : {1.0f, 0.94f, 0.88f, 0.82f, 0.76f, 0.7f})
    try_zeros(x, widest * share, range.middle(), 1, best);
  return best.half;
}

using BlockFit = std::array<GroupFit, kIntBlock / kInt4Group>;

// Every group with the sub-scale near its own half step that fits best.
float fit_block(const float* x, size_t groups, const float* halves, const Range* ranges, float scale,
                BlockFit& fit) {
  float error = 0;
  for (size_t g = 0; g < groups; ++g) {
    fit[g] = {};
    const auto nearest = static_cast<int>(std::lrint(halves[g] / scale));
    for (int s = nearest - 1; s <= nearest + 1; ++s) {
      const int sub_scale = std::clamp(s, 1, kMostSubScale);
      try_zeros(x + g * kInt4Group, scale * static_cast<float>(sub_scale), ranges[g].middle(), sub_scale,
                fit[g]);
    }
    error += fit[g].error;
  }
  return error;
}

// The scale that suits the integers best.
float least_squares(const float* x, size_t groups, const BlockFit& fit) {
  double x_code = 0, code_code = 0;
  for (size_t i = 0; i < groups * kInt4Group; ++i) {
    const GroupFit& group = fit[i / kInt4Group];
    const float code = static_cast<float>(group.sub_scale) *
                       (2 * group.codes[i % kInt4Group] - static_cast<float>(group.zero));
    x_code += static_cast<double>(x[i]) * static_cast<double>(code);
    code_code += static_cast<double>(code) * static_cast<double>(code);
  }
  return code_code > 0 ? static_cast<float>(x_code / code_code) : 0;
}

void pack_group(const GroupFit& fit, uint8_t* codes, uint8_t* sub) {
  constexpr size_t kHalf = kInt4Group / 2;
  for (size_t j = 0; j < kHalf; ++j)
    codes[j] =
        static_cast<uint8_t>(static_cast<int>(fit.codes[j]) | static_cast<int>(fit.codes[kHalf + j]) << 4);
  *sub = static_cast<uint8_t>(fit.sub_scale | (fit.zero - kFirstZero) << 4);
}

// A block's scale; its groups' codes and sub-scales go to `codes` and `subs`.
float quantize_block_int4(const float* x, size_t groups, uint8_t* codes, uint8_t* subs) {
  std::array<float, kIntBlock / kInt4Group> halves{};
  std::array<Range, kIntBlock / kInt4Group> ranges{};
  float most = 0;
  for (size_t g = 0; g < groups; ++g) {
    const auto [low, high] = std::minmax_element(x + g * kInt4Group, x + (g + 1) * kInt4Group);
    ranges[g] = {*low, *high};
    halves[g] = free_half(x + g * kInt4Group, ranges[g]);
    most = std::max(most, halves[g]);
  }
  BlockFit best, fit;
  float error = std::numeric_limits<float>::infinity(), scale = 0;
  for (const float steps : {15.0f, 14.0f, 13.0f}) {
    if (most == 0) break;
    const float tried = fit_block(x, groups, halves.data(), ranges.data(), most / steps, fit);
    if (!(tried < error)) continue;
    error = tried;
    best = fit;
    scale = least_squares(x, groups, fit);
  }
  for (size_t g = 0; g < groups; ++g) pack_group(best[g], codes + g * kInt4Group / 2, subs + g);
  return scale;
}

}  // namespace

bool quantize_row_int8(std::span<const float> row, int8_t* codes, float* scales) {
  if (!all_finite(row)) return false;
  for (size_t begin = 0; begin < row.size(); begin += kIntBlock) {
    const Tamed block(row.subspan(begin, std::min<size_t>(kIntBlock, row.size() - begin)));
    scales[begin / kIntBlock] = quantize_block_int8(block.numbers(), codes + begin) * block.factor();
  }
  return true;
}

bool quantize_row_int4(std::span<const float> row, uint8_t* packed, float* scales) {
  if (!all_finite(row)) return false;
  const size_t columns = row.size();
  for (size_t begin = 0; begin < columns; begin += kIntBlock) {
    const Tamed block(row.subspan(begin, std::min<size_t>(kIntBlock, columns - begin)));
    scales[begin / kIntBlock] =
        quantize_block_int4(block.numbers().data(), block.numbers().size() / kInt4Group, packed + begin / 2,
                            packed + columns / 2 + begin / kInt4Group) *
        block.factor();
  }
  return true;
}

void quantize_activations_int8(std::span<const float> row, int8_t* codes, float* scales) {
  for (size_t begin = 0; begin < row.size(); begin += kIntBlock) {
    const std::span<const float> x = row.subspan(begin, std::min<size_t>(kIntBlock, row.size() - begin));
    float& scale = scales[begin / kIntBlock];
    if (!all_finite(x)) {
      scale = std::numeric_limits<float>::quiet_NaN();
      std::fill_n(codes + begin, x.size(), int8_t{0});
      continue;
    }
    const float amax = largest_magnitude(x);
    scale = amax == 0 ? 1 : std::max(amax / kMostCode, FLT_MIN);
    for (size_t i = 0; i < x.size(); ++i)
      codes[begin + i] =
          static_cast<int8_t>(std::clamp(std::nearbyint(x[i] / scale), -float{kMostCode}, float{kMostCode}));
  }
}

}  // namespace moray
