// For the tests of this folder: random tensors, and one computation repeated on every instruction set and
// thread count.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "backend/cpu/register.h"
#include "base/random.h"
#include "runtime/exec.h"

namespace moray::cpu::test {

inline Allocator& allocator() {
  static Allocator instance;
  return instance;
}

inline Tensor zeros(Shape shape) {
  return Tensor::zeros(allocator(), shape, DType::f32);
}

inline Tensor random_tensor(Shape shape, uint64_t stream, double scale = 1) {
  Tensor x = Tensor::empty(allocator(), shape, DType::f32);
  Random random(17, stream);
  for (float& value : x.span<float>()) value = static_cast<float>(scale * random.normal());
  return x;
}

inline Tensor copy_of(const Tensor& x) {
  Tensor copy = Tensor::empty(allocator(), x.shape(), x.dtype());
  copy.copy_from(x);
  return copy;
}

inline Tensor i32_tensor(const std::vector<int32_t>& values, Shape shape) {
  Tensor x = Tensor::empty(allocator(), shape, DType::i32);
  std::copy(values.begin(), values.end(), x.data<int32_t>());
  return x;
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && std::memcmp(a.raw(), b.raw(), a.bytes()) == 0;
}

// ‖got − expected‖ / ‖expected‖ (or root mean square of `got` where all of `expected` is 0); NaN anywhere
// gives NaN.
inline double relative_error(const Tensor& got, const std::vector<double>& expected) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += std::pow(got.data<float>()[i] - expected[i], 2);
    norm += expected[i] * expected[i];
  }
  return std::sqrt(difference / (norm > 0 ? norm : static_cast<double>(expected.size())));
}

// What `compute` returns must have the same bits on 1, 2 and 4 threads of both instruction sets. Returns it.
inline std::vector<Tensor> same_everywhere(const std::function<std::vector<Tensor>(Exec&)>& compute) {
  register_kernels();
  std::vector<Tensor> first;
  for (const char* simd : {"avx2", "avx512"}) {
    if (!force_simd(simd)) continue;
    for (int threads : {1, 2, 4}) {
      ThreadPool pool(threads);
      Exec exec{Device::cpu, &pool, &allocator(), DType::f32};
      std::vector<Tensor> result = compute(exec);
      if (first.empty()) first = result;
      for (size_t i = 0; i < result.size(); ++i)
        EXPECT_TRUE(same_bits(result[i], first[i]))
            << "result " << i << " on " << threads << " threads, " << simd;
    }
  }
  return first;
}

}  // namespace moray::cpu::test
