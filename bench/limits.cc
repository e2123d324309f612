#include "bench/limits.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "bench/peak.h"

namespace moray {

namespace {

class Measurement {
 public:
  explicit Measurement(Limits& limits) : limits_(limits), probe_(limits.threads) {}

  void run() {
    for (const char* simd : {"avx2", "avx512"})
      if (simd == std::string("avx2") || __builtin_cpu_supports("avx512f"))
        add(fmt::format("multiply-add f32 {}", simd), "GFLOP/s",
            [&](int threads) { return fma_peak(simd, threads); });
    for (const Int8Path path : int8_paths())
      add(fmt::format("multiply-add int8 {}", int8_path_name(path)), "GOP/s",
          [&](int threads) { return int8_peak(path, threads); });
    cache("L1", limits_.caches.l1_bytes, 1);
    cache("L2", limits_.caches.l2_bytes, 1);
    cache("L3", limits_.caches.l3_bytes, limits_.threads);
    for (const int streams : {1, 2, 4, 8})
      memory(fmt::format("memory read, {} stream{} a thread", streams, streams > 1 ? "s" : ""), Traffic::read,
             streams);
    memory("memory write", Traffic::write, 1);
    memory("memory write, streaming stores", Traffic::stream_write, 1);
    memory("memory copy", Traffic::copy, 1);
    memory("memory copy, streaming stores", Traffic::stream_copy, 1);
    memory("memory update in place", Traffic::update, 1);
  }

 private:
  template <class Measure>
  void add(const std::string& name, const char* unit, const Measure& measure) {
    LimitFigure figure{name, unit, measure(1), {}};
    figure.all = limits_.threads > 1 ? measure(limits_.threads) : figure.one;
    limits_.figures.push_back(figure);
  }

  void memory(const std::string& name, Traffic traffic, int streams) {
    add(name, "GB/s", [&](int threads) { return probe_.measure(traffic, threads, streams); });
  }

  // Half of a level, so that what else lies there does not push it out; `sharers` threads share the level.
  void cache(const char* level, int64_t bytes, int sharers) {
    if (bytes == 0) return;
    const int64_t half = bytes / 2;
    for (const Traffic traffic : {Traffic::read, Traffic::write})
      add(fmt::format("{} {}, {} KiB", level, traffic == Traffic::read ? "read" : "write", half >> 10),
          "GB/s", [&](int threads) {
            return probe_.measure(traffic, threads, 1, threads > 1 ? half / sharers : half);
          });
  }

  Limits& limits_;
  BandwidthProbe probe_;
};

}  // namespace

Limits measure_limits(int threads) {
  if (!__builtin_cpu_supports("avx2")) fail("this processor has no AVX2");
  const NoiseProbe noise;
  Limits limits;
  limits.threads = threads;
  limits.caches = cpu::machine_caches();
  Measurement(limits).run();
  std::vector<double> spreads;
  for (const LimitFigure& figure : limits.figures) {
    spreads.push_back(figure.one.spread());
    spreads.push_back(figure.all.spread());
  }
  std::sort(spreads.begin(), spreads.end());
  limits.spread = spreads[spreads.size() / 2];
  limits.noise = noise.noise();
  return limits;
}

std::string limits_table(const Limits& limits) {
  std::string table = fmt::format("{:<36} {:>10} {:>11}   {}\n", machine_name(), "1 thread",
                                  fmt::format("{} threads", limits.threads), "spread");
  for (const LimitFigure& figure : limits.figures)
    table +=
        fmt::format("{:<36} {:>10.1f} {:>11.1f} {:<8} {:>3.0f}%, {:.0f}%\n", figure.name, figure.one.best,
                    figure.all.best, figure.unit, 100 * figure.one.spread(), 100 * figure.all.spread());
  table += fmt::format("noise: {}; best repeat above the median one by {:.0f}% (median of all figures)\n",
                       limits.noise.to_string(), 100 * limits.spread);
  return table;
}

}  // namespace moray
