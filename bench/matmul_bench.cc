// Matrix products against the machine's multiply-add peak, both measured in this run.
//
// usage: matmul_bench [threads] [avx2|avx512]
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "backend/cpu/matmul_blocking.h"
#include "backend/cpu/register.h"
#include "base/random.h"
#include "ops/cross_entropy.h"
#include "ops/matmul.h"
#include "peak.h"

namespace moray {
namespace {

struct Bench {
  Allocator allocator;
  ThreadPool pool;
  Exec exec;
  double peak_gflops = 0;

  explicit Bench(int threads) : pool(threads), exec{Device::cpu, &pool, &allocator, DType::f32} {}

  Tensor tensor(Shape shape, DType dtype) {
    const Tensor result = Tensor::empty(allocator, shape, dtype);
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

  // Best of the runs that fit in about 0.4 s, the first (cold) left out.
  template <class Run>
  void report(const std::string& name, double flops, const Run& run) {
    run();
    double best = 1e9, spent = 0;
    for (int repeat = 0; repeat < 200 && (spent < 0.4 || repeat < 3); ++repeat) {
      const auto begin = std::chrono::steady_clock::now();
      run();
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
      best = std::min(best, seconds.count());
      spent += seconds.count();
    }
    fmt::print("{:<58} {:>9.1f} GFLOP/s {:>5.0f}%\n", name, flops / best * 1e-9,
               flops / best * 1e-7 / peak_gflops);
  }

  void dense(int64_t rows, int64_t inputs, int64_t outputs, DType dtype) {
    const double flops = 2.0 * static_cast<double>(rows * inputs * outputs);
    const Tensor x = tensor({rows, inputs}, dtype), w = tensor({outputs, inputs}, dtype);
    const Tensor y = tensor({rows, outputs}, dtype), dw = tensor({1, outputs, inputs}, DType::f32);
    const std::string shape = fmt::format("{} {} x {} x {}", dtype_name(dtype), rows, inputs, outputs);
    report(shape + " forward", flops, [&] { matmul_forward(exec, x, w, y); });
    report(shape + " backward input", flops, [&] { matmul_backward_input(exec, y, w, x); });
    report(shape + " backward weight", flops, [&] {
      matmul_backward_weight(exec, y, x, {1, rows, 0, 1}, dw);
    });
  }

  // `rows` expert rows over 64 experts and `samples` samples, loads falling off linearly.
  void grouped(int64_t rows, int64_t samples, int64_t inputs, int64_t outputs, DType dtype) {
    constexpr int64_t kExperts = 64;
    ExpertRows expert_rows{Tensor::empty(allocator, {kExperts * samples + 1}, DType::i32), kExperts, samples};
    int32_t* offsets = expert_rows.offsets_ES.data<int32_t>();
    const auto cells = static_cast<double>(kExperts * samples);
    for (int64_t i = 0; i <= kExperts * samples; ++i) {
      const double part = static_cast<double>(i) / cells;
      offsets[i] = static_cast<int32_t>(static_cast<double>(rows) * part * (1.5 - 0.5 * part));
    }
    const double flops = 2.0 * static_cast<double>(rows * inputs * outputs);
    const Tensor x = tensor({rows, inputs}, dtype), w = tensor({kExperts, outputs, inputs}, dtype);
    const Tensor y = tensor({rows, outputs}, dtype), dw = tensor({kExperts, outputs, inputs}, DType::f32);
    const std::string shape = fmt::format("{} {} rows, 64 experts, {} samples, {} x {}", dtype_name(dtype),
                                          rows, samples, inputs, outputs);
    report(shape + " F", flops, [&] { grouped_matmul_forward(exec, x, w, expert_rows, y); });
    report(shape + " B", flops, [&] { grouped_matmul_backward_input(exec, y, w, expert_rows, x); });
    report(shape + " W", flops, [&] { grouped_matmul_backward_weight(exec, y, x, expert_rows, dw); });
  }

  // The head and its loss: three products and a softmax.
  void cross_entropy(int64_t rows, int64_t hidden, int64_t vocabulary, DType dtype) {
    const Tensor h = tensor({rows, hidden}, dtype), w = tensor({vocabulary, hidden}, dtype);
    const Tensor dh = tensor({rows, hidden}, dtype), dw = tensor({1, vocabulary, hidden}, DType::f32);
    const Tensor loss = tensor({rows}, DType::f32), targets = Tensor::zeros(allocator, {rows}, DType::i32);
    report(fmt::format("{} cross-entropy {} x {} x {}", dtype_name(dtype), rows, hidden, vocabulary),
           6.0 * static_cast<double>(rows * hidden * vocabulary), [&] {
             cross_entropy_forward_backward(exec, h, w, targets, {1, rows, 0, 1}, 1e-3, loss, dh, dw);
           });
  }
};

void run(int threads) {
  Bench bench(threads);
  bench.peak_gflops = fma_peak_gflops(cpu::simd_name(), threads);
  const cpu::CacheSizes& caches = cpu::machine_caches();
  fmt::print("{} threads, {}, L1 {} KiB, L2 {} KiB; multiply-add peak {:.1f} GFLOP/s = 100%\n", threads,
             cpu::simd_name(), caches.l1_bytes >> 10, caches.l2_bytes >> 10, bench.peak_gflops);
  bench.dense(1024, 1024, 1024, DType::f32);
  bench.dense(1024, 1024, 1024, DType::bf16);
  bench.dense(2048, 512, 1408, DType::f32);
  bench.dense(64, 2048, 1408, DType::f32);
  bench.dense(16, 2048, 1408, DType::f32);
  bench.dense(1, 2048, 1408, DType::bf16);
  bench.grouped(4096, 4, 512, 256, DType::f32);
  bench.grouped(4096, 16, 512, 256, DType::f32);
  bench.grouped(4096, 4, 2048, 1408, DType::bf16);
  bench.cross_entropy(512, 256, 4096, DType::f32);
  bench.cross_entropy(256, 2048, 16384, DType::bf16);
  fmt::print("multiply-add peak after: {:.1f} GFLOP/s\n", fma_peak_gflops(cpu::simd_name(), threads));
}

}  // namespace
}  // namespace moray

int main(int argc, char** argv) try {
  moray::cpu::register_kernels();
  if (argc > 2 && !moray::cpu::force_simd(argv[2])) moray::fail("this processor has no {}", argv[2]);
  moray::run(moray::resolve_threads(argc > 1 ? std::atoi(argv[1]) : 0));
} catch (const moray::Error& error) {
  fmt::print(stderr, "{}\n", error.what());
  return 1;
}
