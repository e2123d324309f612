#include "bench/sheet.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "backend/cpu/register.h"
#include "base/random.h"
#include "bench/peak.h"

namespace moray {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_of(const std::function<void()>& run) {
  const auto begin = Clock::now();
  run();
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

}  // namespace

std::vector<Timing> time_in_turns(const std::vector<Contestant>& contestants, double seconds) {
  constexpr int kRounds = 3;
  constexpr auto kRest = std::chrono::milliseconds(40);
  std::vector<std::vector<double>> times(contestants.size());
  for (int round = 0; round < kRounds; ++round)
    for (size_t c = 0; c < contestants.size(); ++c) {
      if (contestants.size() > 1) std::this_thread::sleep_for(kRest);
      const double first = seconds_of(contestants[c].run);
      // A long run warms itself up.
      if (first > seconds) {
        times[c].push_back(first);
        continue;
      }
      for (double spent = 0; spent < seconds / kRounds;) {
        times[c].push_back(seconds_of(contestants[c].run));
        spent += times[c].back();
      }
    }
  std::vector<Timing> timings;
  for (std::vector<double>& of : times) {
    std::sort(of.begin(), of.end());
    timings.push_back({of.front(), of[of.size() / 2]});
  }
  return timings;
}

Sheet::Sheet(const std::string& claim, int threads, std::string filter)
    : pool_(threads),
      exec_{Device::cpu, &pool_, &allocator_, DType::f32},
      filter_(std::move(filter)),
      peak_gflops_(fma_peak_gflops(cpu::simd_name(), threads)) {
  fmt::print("{}\n{}; {} threads, {}; multiply-add peak {:.1f} GFLOP/s\n", claim, machine_name(), threads,
             cpu::simd_name(), peak_gflops_);
}

Sheet::~Sheet() {
  fmt::print("peak at the end {:.1f} GFLOP/s; noise: {}\n", fma_peak_gflops(cpu::simd_name(), threads()),
             noise_.noise().to_string());
  if (bars_ > 0) fmt::print("{} of {} bars met\n", met_, bars_);
  fmt::print("\n");
}

Tensor Sheet::tensor(Shape shape, DType dtype) {
  const Tensor result = Tensor::empty(allocator_, shape, dtype);
  Random random(1, static_cast<uint64_t>(shape.elements()));
  for (int64_t i = 0; i < result.elements(); ++i) {
    const auto value = static_cast<float>(random.uniform() - 0.5);
    if (dtype == DType::bf16)
      result.data<bf16>()[i] = to_bf16(value);
    else
      result.data<float>()[i] = value;
  }
  return result;
}

void Sheet::compute_row(const std::string& name, double flops, const std::vector<Contestant>& contestants,
                        std::optional<double> bar, double seconds) {
  if (!wants(name)) return;
  const std::vector<Timing> timings = time_in_turns(contestants, seconds);
  std::string figures = fmt::format("{:>8.1f} GFLOP/s (median {:.1f})", flops / timings[0].best * 1e-9,
                                    flops / timings[0].median * 1e-9);
  double best_peer = 0;
  for (size_t c = 1; c < contestants.size(); ++c) {
    best_peer = std::max(best_peer, timings[0].best / timings[c].best);
    const double rate = flops / timings[c].best * 1e-9;
    figures += fmt::format(", {} {:.1f} = {:.1f}%", contestants[c].name, rate, 100 * rate / peak_gflops_);
  }
  if (best_peer > 0) figures += fmt::format("; {:.2f} x the better peer", 1 / best_peer);
  row(name, figures, flops / timings[0].best * 1e-9 / peak_gflops_, "peak", bar);
}

void Sheet::memory_row(const std::string& name, double bytes, Moves moves, const std::function<void()>& run,
                       std::optional<double> bar) {
  if (!wants(name)) return;
  if (!bandwidth_) bandwidth_.emplace(threads());
  const double before = bandwidth_limit(*bandwidth_, moves, threads());
  const Timing timing = time_in_turns({{"moray", run}})[0];
  const double limit = std::max(before, bandwidth_limit(*bandwidth_, moves, threads()));
  const double rate = bytes / timing.best * 1e-9;
  row(name, fmt::format("{:>8.1f} GB/s (median {:.1f}) of {:.1f}", rate, bytes / timing.median * 1e-9, limit),
      rate / limit,
      moves == Moves::read       ? "read"
      : moves == Moves::in_place ? "update"
                                 : "copy",
      bar);
}

void Sheet::row(const std::string& name, const std::string& figures, double share, const std::string& of,
                std::optional<double> bar) {
  std::string verdict;
  if (bar) {
    ++bars_;
    met_ += share >= *bar;
    verdict = fmt::format(", bar {:.0f}% {}", 100 * *bar, share >= *bar ? "met" : "MISSED");
  }
  fmt::print("{:<54} {:>5.1f}% of {}{}: {}\n", name, 100 * share, of, verdict, figures);
  std::fflush(stdout);
}

BenchArguments parse_bench_arguments(int argc, char** argv) {
  cpu::register_kernels();
  BenchArguments arguments;
  arguments.threads = resolve_threads(argc > 1 ? std::atoi(argv[1]) : 0);
  if (argc > 2 && !cpu::force_simd(argv[2])) fail("this processor has no {}", argv[2]);
  arguments.simd = cpu::simd_name();
  if (argc > 3) arguments.filter = argv[3];
  return arguments;
}

int run_bench(const std::function<void()>& body) {
  try {
    body();
    return 0;
  } catch (const Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}

}  // namespace moray
