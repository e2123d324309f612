// Operands that are hard on a tensor core's sums, the same wherever they are drawn: for
// backend/cuda/tensor_core_check.cu, which sums them on a GPU, and for the test that holds the model against
// what an H100 gave (tests/golden/tensor_core).
//
// A case is a product a [64, k] · b [8, k]ᵀ of FP8 codes onto first sums [64, 8].
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "base/narrow_float.h"
#include "ops/tensor_core.h"

namespace moray::tensor_core_cases {

constexpr int kRows = 64, kColumns = 8;

enum class Format : uint8_t { e4m3, e5m2 };

// Codes of magnitudes in [low, high], each 0 with the probability `zeros` / 4, of both signs unless
// `positive`.
struct Codes {
  Format format;
  int low, high;
  int zeros = 0;
  bool positive = false;
};

// First sums ±2^e · 1.xx, with e from low to high and all 24 bits; all 0 where low > high.
struct Sums {
  int low = 1, high = 0;
};

struct Kind {
  const char* name;
  int k;
  Codes a, b;
  Sums sums;
};

inline const std::vector<Kind>& kinds() {
  using enum Format;
  static const std::vector<Kind> all = {
      {"e4m3, any", 32, {e4m3, 0, 0x7e}, {e4m3, 0, 0x7e}, {}},
      {"e4m3, any, onto sums", 32, {e4m3, 0, 0x7e}, {e4m3, 0, 0x7e}, {-12, 22}},
      {"e4m3, near 1, onto sums", 32, {e4m3, 0x30, 0x40}, {e4m3, 0x30, 0x40}, {-16, 16}},
      {"e4m3, positive near 1", 32, {e4m3, 0x30, 0x40, 0, true}, {e4m3, 0x30, 0x40, 0, true}, {}},
      {"e4m3, subnormal, onto sums", 32, {e4m3, 0, 9}, {e4m3, 0, 9}, {-24, -6}},
      {"e4m3, subnormal by any, onto sums", 32, {e4m3, 0, 9}, {e4m3, 0, 0x7e}, {-20, 4}},
      {"e4m3, sparse, onto sums", 32, {e4m3, 0, 0x7e, 3}, {e4m3, 0, 0x7e, 3}, {-30, 18}},
      {"zeros onto sums", 32, {e4m3, 0, 0}, {e4m3, 0, 0x7e}, {-140, 120}},
      {"e5m2 by e4m3, onto sums", 32, {e5m2, 0, 0x7b}, {e4m3, 0, 0x7e}, {-20, 24}},
      {"e4m3 by e5m2, onto sums", 32, {e4m3, 0, 0x7e}, {e5m2, 0, 0x7b}, {-20, 24}},
      {"e5m2, any, onto sums", 32, {e5m2, 0, 0x7b}, {e5m2, 0, 0x7b}, {-30, 30}},
      {"e4m3, K = 128", 128, {e4m3, 0, 0x7e}, {e4m3, 0, 0x7e}, {}},
      {"e4m3, K = 4096", 4096, {e4m3, 0, 0x7e}, {e4m3, 0, 0x7e}, {}},
      {"e4m3, positive, K = 4096", 4096, {e4m3, 0x20, 0x40, 0, true}, {e4m3, 0x20, 0x40, 0, true}, {}},
  };
  return all;
}

struct Case {
  std::vector<uint8_t> a, b;  // [64, k], [8, k]
  std::vector<float> sums;    // [64, 8]
};

// Case n of a kind. std::mt19937_64's numbers are the standard's, so every machine draws the same.
inline Case draw(size_t kind, int n) {
  const Kind& drawn = kinds()[kind];
  std::mt19937_64 random(1000 * kind + static_cast<size_t>(n));
  const auto code = [&](const Codes& codes) {
    const uint64_t magnitude =
        random() % 4 < static_cast<uint64_t>(codes.zeros)
            ? 0
            : static_cast<uint64_t>(codes.low) + random() % static_cast<uint64_t>(codes.high - codes.low + 1);
    return static_cast<uint8_t>(codes.positive ? magnitude : magnitude | random() % 2 << 7);
  };
  Case drawn_case;
  for (int i = 0; i < kRows * drawn.k; ++i) drawn_case.a.push_back(code(drawn.a));
  for (int i = 0; i < kColumns * drawn.k; ++i) drawn_case.b.push_back(code(drawn.b));
  for (int i = 0; i < kRows * kColumns; ++i) {
    const auto [low, high] = drawn.sums;
    if (low > high) {
      drawn_case.sums.push_back(0);
      continue;
    }
    const int exponent = low + static_cast<int>(random() % static_cast<uint64_t>(high - low + 1));
    const float magnitude = std::ldexp(1 + static_cast<float>(random() >> 41) * 0x1p-23f, exponent);
    drawn_case.sums.push_back(random() % 2 == 0 ? magnitude : -magnitude);
  }
  return drawn_case;
}

inline std::vector<float> decoded(const std::vector<uint8_t>& codes, Format format) {
  std::vector<float> values;
  for (uint8_t code : codes)
    values.push_back(format == Format::e4m3 ? to_float(e4m3{code}) : to_float(e5m2{code}));
  return values;
}

inline int least_exponent(Format format) {
  return format == Format::e4m3 ? kLeastExponent<e4m3> : kLeastExponent<e5m2>;
}

// The model's sums of a case: (row, column) of [64, 8].
class ModelSums {
 public:
  ModelSums(const Kind& kind, const Case& drawn)
      : kind_(kind),
        drawn_(drawn),
        a_(decoded(drawn.a, kind.a.format)),
        b_(decoded(drawn.b, kind.b.format)) {}

  float at(int row, int column, int bits = 14) const {
    TensorCoreSum sum({bits, false, 0}, least_exponent(kind_.a.format), least_exponent(kind_.b.format),
                      drawn_.sums[static_cast<size_t>(row * kColumns + column)]);
    sum.add(a_.data() + row * kind_.k, b_.data() + column * kind_.k, kind_.k);
    return sum.value();
  }

 private:
  const Kind& kind_;
  const Case& drawn_;
  std::vector<float> a_, b_;
};

}  // namespace moray::tensor_core_cases
