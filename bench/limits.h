// The limits of this machine, one after the other: what every other figure is held against.
#pragma once

#include <string>
#include <vector>

#include "backend/cpu/caches.h"
#include "bench/bandwidth.h"
#include "bench/noise.h"

namespace moray {

struct LimitFigure {
  std::string name;  // "fma f32 avx512"
  std::string unit;  // "GFLOP/s"
  Rate one, all;     // on one thread and on all
};

struct Limits {
  int threads = 1;
  cpu::CacheSizes caches;
  std::vector<LimitFigure> figures;
  Noise noise;
  double spread = 0;  // the median, over the figures, of how far the best repeat lies above the median one
};

// About ten seconds. Throws Error when memory runs out or the processor lacks AVX2.
Limits measure_limits(int threads);

std::string limits_table(const Limits&);

}  // namespace moray
