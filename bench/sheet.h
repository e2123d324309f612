// One program's measurements: rows with their share of the machine's limits, bars met or missed, and how
// noisy the machine was.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "bench/bandwidth.h"
#include "bench/noise.h"
#include "runtime/exec.h"

namespace moray {

struct Timing {
  double best = 0, median = 0;  // seconds
};

// One way to do a job.
struct Contestant {
  std::string name;  // "moray", "OpenBLAS"
  std::function<void()> run;
};

// Times each in blocks of its own, round after round: first a rest in which the others' idle threads fall
// asleep, then one run that does not count, then runs for about `seconds` in all.
std::vector<Timing> time_in_turns(const std::vector<Contestant>& contestants, double seconds = 0.25);

class Sheet {
 public:
  // Prints the claim, the machine and its limits. `filter`: only rows whose names hold it.
  Sheet(const std::string& claim, int threads, std::string filter = "");
  ~Sheet();  // prints the limits again, and the noise

  Exec& exec() { return exec_; }
  int threads() const { return pool_.threads(); }
  bool wants(const std::string& name) const { return name.find(filter_) != std::string::npos; }

  // Random numbers in (-1/2, 1/2).
  Tensor tensor(Shape shape, DType dtype = DType::f32);

  // A row in GFLOP/s and in % of the multiply-add peak; contestants after the first are peers. `bar`: what
  // the first is to reach, as a share of the peak.
  void compute_row(const std::string& name, double flops, const std::vector<Contestant>& contestants,
                   std::optional<double> bar = {}, double seconds = 0.25);
  // A row in GB/s and in % of the bandwidth of what moves so, measured right before and after: on a machine
  // whose neighbours come and go it may halve or double within a run.
  void memory_row(const std::string& name, double bytes, Moves moves, const std::function<void()>& run,
                  std::optional<double> bar = {});
  // Any other: `share` of what is said in `of`.
  void row(const std::string& name, const std::string& figures, double share, const std::string& of,
           std::optional<double> bar = {});

  double peak_gflops() const { return peak_gflops_; }

 private:
  Allocator allocator_;
  ThreadPool pool_;
  Exec exec_;
  std::string filter_;
  NoiseProbe noise_;
  double peak_gflops_ = 0;
  std::optional<BandwidthProbe> bandwidth_;
  int bars_ = 0, met_ = 0;
};

// What a bench program is called with: [THREADS] [avx2|avx512] [FILTER]. Registers the kernels.
struct BenchArguments {
  int threads = 1;
  std::string simd;
  std::string filter;
};
BenchArguments parse_bench_arguments(int argc, char** argv);

// The body of main: an Error becomes one line and exit status 1.
int run_bench(const std::function<void()>& body);

}  // namespace moray
