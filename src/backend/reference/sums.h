// The two canonical sums (docs/numerics.md), one element at a time.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

namespace moray::reference {

constexpr int64_t kBlock = 128;

// run + Σ_k a[k·a_step] · b[k·b_step] for k in [0, count): in blocks of 128, each summed apart from zero by
// fma. Compiled for FMA, which every machine that may register kernels has, because std::fma is a slow
// library call without.
template <class T>
[[gnu::target("fma")]] T add_products(T run, const T* a, int64_t a_step, const T* b, int64_t b_step,
                                      int64_t count) {
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = begin + kBlock < count ? begin + kBlock : count;
    T part = 0;
    for (int64_t k = begin; k < end; ++k) part = std::fma(a[k * a_step], b[k * b_step], part);
    run += part;
  }
  return run;
}

// A sum along a row in 16 virtual lanes: element j goes to lane j mod 16 by fma, lanes are joined by halves.
template <class T>
class LaneSum {
 public:
  void add_product(int64_t j, T a, T b) {
    T& lane = lanes_[static_cast<size_t>(j) % kLanes];
    lane = std::fma(a, b, lane);
  }
  T total() const {
    std::array<T, kLanes> lanes = lanes_;
    for (size_t half = kLanes / 2; half > 0; half /= 2)
      for (size_t j = 0; j < half; ++j) lanes[j] += lanes[j + half];
    return lanes[0];
  }

 private:
  static constexpr size_t kLanes = 16;
  std::array<T, kLanes> lanes_{};
};

template <class T>
T sigmoid(T x) {
  return 1 / (1 + std::exp(-x));
}

}  // namespace moray::reference
