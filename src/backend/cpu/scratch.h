// Memory of one thread that grows to the largest shape seen and then stays.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>

#include "base/error.h"

namespace moray::cpu {

class GrowingBuffer {
 public:
  // At least that many floats, aligned to 64 bytes; contents are lost when it grows.
  float* floats(int64_t count) {
    if (count > capacity_) {
      const size_t bytes = (static_cast<size_t>(count) * sizeof(float) + 63) / 64 * 64;
      memory_.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
      if (memory_ == nullptr) fail("out of memory: {} bytes of kernel scratch", bytes);
      capacity_ = count;
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(float* memory) const { std::free(memory); }
  };
  std::unique_ptr<float, Free> memory_;
  int64_t capacity_ = 0;
};

}  // namespace moray::cpu
