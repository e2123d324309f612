// Matrix products against the machine's multiply-add peak and against OpenBLAS and oneDNN, in one run.
//
// usage: matmul_bench [THREADS] [avx2|avx512] [FILTER]
//
// Claims, on 2 threads: f32 at 80% of the peak at 1024³ and 2048³ and no slower than the peers there; 64 rows
// of a 2048 × 1408 weight at 75%, 16 rows at 66%; bf16 operands at 0.9 of f32. Experts (64 of 2048 × 1408,
// 4096 rows of 8 samples): forward and input gradient at 75% with even loads, 70% with Zipf's; weight
// gradient at 65%.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "backend/cpu/matmul_blocking.h"
#include "bench/peers.h"
#include "ops/matmul.h"
#include "ops/matmul_fp8.h"

namespace moray {
namespace {

class MatmulBench {
 public:
  explicit MatmulBench(const BenchArguments& arguments)
      : sheet_("Matrix products, share of the multiply-add peak", arguments.threads, arguments.filter) {
    const cpu::CacheSizes& caches = cpu::machine_caches();
    fmt::print("blocked for L1 {} KiB, L2 {} KiB\n", caches.l1_bytes >> 10, caches.l2_bytes >> 10);
  }

  void dense(int64_t rows, int64_t inputs, int64_t outputs, DType dtype, std::optional<double> bar = {}) {
    const std::string shape = fmt::format("{} {} x {} x {}", dtype_name(dtype), rows, inputs, outputs);
    if (!wants_any(shape, {" forward", " backward input", " backward weight"})) return;
    const double flops = 2.0 * static_cast<double>(rows * inputs * outputs);
    const Tensor x = sheet_.tensor({rows, inputs}, dtype), w = sheet_.tensor({outputs, inputs}, dtype);
    const Tensor y = sheet_.tensor({rows, outputs}, dtype), dx = sheet_.tensor({rows, inputs}, dtype);
    const Tensor dw = sheet_.tensor({1, outputs, inputs});
    Exec& exec = sheet_.exec();
    const auto row = [&](const char* direction, const std::function<void()>& run,
                         const PeerProduct& product) {
      std::vector<Contestant> contestants = {{"moray", run}};
      if (dtype == DType::f32)  // of bf16 the peers make another thing: products rounded otherwise
        for (Contestant& peer : peer_products(product, sheet_.threads()))
          contestants.push_back(std::move(peer));
      sheet_.compute_row(shape + direction, flops, contestants, bar);
    };
    const auto f = [](const Tensor& t) { return reinterpret_cast<float*>(t.raw()); };
    row(" forward", [&] { matmul_forward(exec, x, w, y); },
        {rows, outputs, inputs, f(x), false, f(w), true, f(y), true});
    row(" backward input", [&] { matmul_backward_input(exec, y, w, dx); },
        {rows, inputs, outputs, f(y), false, f(w), false, f(dx), true});
    row(" backward weight",
        [&] {
          matmul_backward_weight(exec, y, x, {1, rows, 0, 1}, dw);
        },
        {outputs, inputs, rows, f(y), true, f(x), false, f(dw), false});
  }

  // Training's products of FP8 codes, quantized beforehand: tile by block, for the weight's gradient tile by
  // tile.
  void fp8(int64_t rows, int64_t inputs, int64_t outputs) {
    const std::string shape = fmt::format("fp8 {} x {} x {}", rows, inputs, outputs);
    if (!wants_any(shape, {" forward", " backward input", " backward weight"})) return;
    const double flops = 2.0 * static_cast<double>(rows * inputs * outputs);
    const SampleRows samples{1, rows, 0, 1};
    const auto codes = [&](int64_t height, int64_t width, Tiling tiling) {
      const QuantizedTensor q = QuantizedTensor::empty(
          *sheet_.exec().allocator, {height, width}, CodeFormat::f8_e4m3, tiling, ScaleFormat::fp32,
          tiling == Tiling::token_tiles ? row_blocks(*sheet_.exec().allocator, samples) : Tensor());
      (void)quantize(sheet_.exec(), sheet_.tensor({height, width}), q);
      return q;
    };
    const QuantizedTensor x = codes(rows, inputs, Tiling::row_tiles),
                          dy = codes(rows, outputs, Tiling::row_tiles),
                          w = codes(outputs, inputs, Tiling::blocks),
                          x_tokens = codes(rows, inputs, Tiling::token_tiles),
                          dy_tokens = codes(rows, outputs, Tiling::token_tiles);
    const Tensor y = sheet_.tensor({rows, outputs}, DType::bf16),
                 dx = sheet_.tensor({rows, inputs}, DType::bf16);
    const Tensor dw = sheet_.tensor({1, outputs, inputs});
    Exec& exec = sheet_.exec();
    const auto row = [&](const char* direction, const std::function<void()>& run) {
      sheet_.compute_row(shape + direction, flops, {{"moray", run}});
    };
    row(" forward", [&] { matmul_fp8_forward(exec, x, w, y); });
    row(" backward input", [&] { matmul_fp8_backward_input(exec, dy, w, dx); });
    row(" backward weight", [&] { matmul_fp8_backward_weight(exec, dy_tokens, x_tokens, samples, dw); });
  }

  // `rows` expert rows over 64 experts and `samples` samples: even loads, or those of rank r as 1 / r (Zipf).
  void grouped(int64_t rows, int64_t samples, int64_t inputs, int64_t outputs, DType dtype, bool zipf,
               std::optional<double> bar = {}, std::optional<double> weight_bar = {}) {
    const std::string shape = fmt::format("{} 64 experts of {} x {}, {} rows, {}", dtype_name(dtype), inputs,
                                          outputs, rows, zipf ? "Zipf" : "even");
    if (!wants_any(shape, {" F", " B", " W"})) return;
    const ExpertRows expert_rows = loads(rows, samples, zipf);
    const double flops = 2.0 * static_cast<double>(rows * inputs * outputs);
    const Tensor x = sheet_.tensor({rows, inputs}, dtype),
                 w = sheet_.tensor({kExperts, outputs, inputs}, dtype);
    const Tensor y = sheet_.tensor({rows, outputs}, dtype), dw = sheet_.tensor({kExperts, outputs, inputs});
    Exec& exec = sheet_.exec();
    const auto row = [&](const char* direction, const std::function<void()>& run, std::optional<double> of) {
      sheet_.compute_row(shape + direction, flops, {{"moray", run}}, of, 0.5);
    };
    row(
        " F", [&] { grouped_matmul_forward(exec, x, w, expert_rows, y); }, bar);
    row(
        " B", [&] { grouped_matmul_backward_input(exec, y, w, expert_rows, x); }, bar);
    row(
        " W", [&] { grouped_matmul_backward_weight(exec, y, x, expert_rows, dw); }, weight_bar);
  }

 private:
  static constexpr int64_t kExperts = 64;

  bool wants_any(const std::string& shape, std::initializer_list<const char*> directions) const {
    return std::any_of(directions.begin(), directions.end(),
                       [&](const char* direction) { return sheet_.wants(shape + direction); });
  }

  // Cell (expert, sample) ends where the running sum of weights says, so that all rows are given away.
  // Experts come in no order of load: rank 37·e mod 64.
  ExpertRows loads(int64_t rows, int64_t samples, bool zipf) {
    ExpertRows expert_rows{sheet_.exec().empty_i32({kExperts * samples + 1}), kExperts, samples};
    int32_t* offsets = expert_rows.offsets_ES.data<int32_t>();
    const auto weight = [&](int64_t e) {
      return zipf ? 1.0 / static_cast<double>(1 + 37 * e % kExperts) : 1.0;
    };
    double all = 0, before = 0;
    for (int64_t e = 0; e < kExperts; ++e) all += weight(e);
    offsets[0] = 0;
    for (int64_t cell = 0; cell < kExperts * samples; ++cell) {
      before += weight(cell / samples) / static_cast<double>(samples);
      offsets[cell + 1] = static_cast<int32_t>(std::lround(static_cast<double>(rows) * before / all));
    }
    return expert_rows;
  }

  Sheet sheet_;
};

void run(const BenchArguments& arguments) {
  MatmulBench bench(arguments);
  constexpr double kSquare = 0.80, kRows64 = 0.75, kRows16 = 0.66, kEven = 0.75, kZipf = 0.70, kWeight = 0.65;
  constexpr double kBf16 = 0.9;  // of f32's bar
  bench.dense(1024, 1024, 1024, DType::f32, kSquare);
  bench.dense(2048, 2048, 2048, DType::f32, kSquare);
  bench.dense(64, 2048, 1408, DType::f32, kRows64);
  bench.dense(16, 2048, 1408, DType::f32, kRows16);
  bench.dense(1, 2048, 1408, DType::f32);
  bench.dense(1024, 1024, 1024, DType::bf16, kBf16 * kSquare);
  bench.dense(2048, 2048, 2048, DType::bf16, kBf16 * kSquare);
  bench.dense(64, 2048, 1408, DType::bf16, kBf16 * kRows64);
  bench.dense(16, 2048, 1408, DType::bf16, kBf16 * kRows16);
  bench.fp8(1024, 1024, 1024);
  bench.fp8(2048, 2048, 2048);
  bench.fp8(64, 2048, 1408);
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const bool zipf : {false, true})
      bench.grouped(4096, 8, 2048, 1408, dtype, zipf, zipf ? kZipf : kEven, kWeight);
  bench.grouped(24576, 4, 384, 192, DType::f32, false);  // the recipe small
}

}  // namespace
}  // namespace moray

int main(int argc, char** argv) {
  return moray::run_bench([&] { moray::run(moray::parse_bench_arguments(argc, argv)); });
}
