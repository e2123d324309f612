// Ops that move more than they compute, against the bandwidth they need: every tensor read once and written
// once. Usage: rows_bench [THREADS] [avx2|avx512] [FILTER].
//
// Claim: AdamW, norms, SwiGLU and permutation at 80% or more. What only reads is held against the read
// bandwidth, what writes where it reads against that of updates in place, the rest against the best copy.
//
// Then the same over so few rows that they stay in the caches, against the same limits of memory: how fast
// the instructions alone would go. Memory and instructions one after the other, and the longer of the two
// alone, are the ends between which an op in memory can lie.
//
// T rows, D width, R expert rows, K experts a token.
#include <fmt/format.h>

#include "bench/sheet.h"
#include "ops/adamw.h"
#include "ops/elementwise.h"
#include "ops/permute.h"
#include "ops/quantize.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "ops/swiglu.h"

namespace moray {
namespace {

constexpr double kBar = 0.80;
constexpr int64_t kWidth = 2048;
constexpr int64_t kRows = 16384;     // 128 MiB in f32: past the caches
constexpr int64_t kRowsCached = 32;  // 256 KiB

class RowsBench {
 public:
  RowsBench(Sheet& sheet, int64_t rows) : sheet_(sheet), exec_(sheet_.exec()), rows_(rows) {}

  // `tensors`: how many of T·D elements are read or written, each once.
  void row(const std::string& name, DType dtype, double tensors, Moves moves,
           const std::function<void()>& run, std::optional<double> bar = kBar) {
    const double bytes =
        tensors * static_cast<double>(rows_ * kWidth) * static_cast<double>(dtype_bytes(dtype));
    const bool cached = rows_ == kRowsCached;
    sheet_.memory_row(fmt::format("{} {}{}", dtype_name(dtype), name, cached ? ", in the caches" : ""), bytes,
                      moves, run, cached ? std::nullopt : bar);
  }

  void norms(DType dtype) {
    const Tensor x = wide(dtype), y = wide(dtype), dx = wide(dtype);
    const Tensor w = sheet_.tensor({kWidth}), rstd = sheet_.tensor({rows_}), dw = sheet_.tensor({1, kWidth});
    row("norm forward", dtype, 2, Moves::elsewhere, [&] { rms_norm_forward(exec_, x, w, 1e-6, y, rstd); });
    row("norm backward input", dtype, 3, Moves::elsewhere,
        [&] { rms_norm_backward_input(exec_, y, x, w, rstd, dx); });
    row("norm backward weight", dtype, 2, Moves::read, [&] {
      rms_norm_backward_weight(exec_, y, x, rstd, {4, rows_ / 4, 0, 1}, dw);
    });
  }

  void swiglu(DType dtype) {
    const Tensor gate = wide(dtype), up = wide(dtype), h = wide(dtype), dh = wide(dtype);
    const Tensor dgate = wide(dtype), dup = wide(dtype);
    const Tensor router = sheet_.tensor({rows_}), drouter = sheet_.tensor({rows_});
    row("SwiGLU forward", dtype, 3, Moves::elsewhere, [&] { swiglu_forward(exec_, gate, up, h); });
    row("SwiGLU backward", dtype, 6, Moves::elsewhere,
        [&] { swiglu_backward(exec_, dh, gate, up, router, dgate, dup, h, drouter); });
  }

  // Rows to experts and back, 8 of 64 a token. A token's row is needed by K expert rows far apart: it counts
  // K times.
  void permutation(DType dtype) {
    constexpr int64_t kChoices = 8, kExperts = 64, kSamples = 4;
    const int64_t tokens = rows_ / kChoices;
    const Tensor x = sheet_.tensor({tokens, kWidth}, dtype), y = wide(dtype),
                 gates = sheet_.tensor({tokens, kChoices});
    const Tensor ids = exec_.empty_i32({tokens, kChoices});
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t k = 0; k < kChoices; ++k)  // one of each eight, as a hash of the token says
        ids.data<int32_t>()[t * kChoices + k] = static_cast<int32_t>(
            8 * k + static_cast<int64_t>((static_cast<uint64_t>(t * kChoices + k) * 2654435761U) >> 16) % 8);
    DispatchPlan plan = allocate_dispatch_plan(exec_, tokens, kChoices, kExperts, kSamples);
    dispatch_plan(exec_, ids, plan);
    row("dispatch (gather rows)", dtype, 2, Moves::elsewhere,
        [&] { gather_rows(exec_, x, plan.token_R, y); });
    row("combine (8 rows to 1)", dtype, 1 + 1.0 / kChoices, Moves::read,
        [&] { combine_rows(exec_, y, gates, ids, plan.row_TK, kExperts, x); });
  }

  void elementwise(DType dtype) {
    constexpr int64_t kHeads = 8, kHeadWidth = kWidth / kHeads, kPairs = 32;
    const Tensor a = wide(dtype), b = wide(dtype), out = wide(dtype);
    const Tensor cosines = sheet_.tensor({rows_ / 4, kPairs}), sines = sheet_.tensor({rows_ / 4, kPairs});
    row("add", dtype, 3, Moves::elsewhere, [&] { add(exec_, a, b, out); });
    row("add in place", dtype, 3, Moves::in_place, [&] { add(exec_, a, b, a); });
    row(
        "rope, 64 of each 256", dtype, 2.0 * 2 * kPairs / kHeadWidth, Moves::in_place,
        [&] {
          rope_apply(exec_, a, {kHeads, kHeadWidth}, cosines, sines, rows_ / 4);
        },
        std::nullopt);
  }

  // In f32 tensors: gradient and weight are f32 whatever the moments are.
  void optimizer() {
    const Tensor gradient = wide(DType::f32), weight = wide(DType::f32);
    for (const DType moments : {DType::f32, DType::bf16}) {
      const Tensor m = wide(moments), v = wide(moments);
      for (int64_t i = 0; i < v.elements(); ++i)  // a sum of squares
        if (moments == DType::f32)
          v.data<float>()[i] = 1;
        else
          v.data<bf16>()[i] = to_bf16(1);
      AdamWStep step;
      step.learning_rate = 1e-6;
      row(fmt::format("AdamW, moments {}", dtype_name(moments)), DType::f32, moments == DType::f32 ? 7 : 5,
          Moves::in_place, [&] { adamw_update(exec_, step, gradient, weight, m, v); });
    }
    const Tensor squares = sheet_.tensor({rows_ * kWidth / kNormBlock});
    row("squares for the norm", DType::f32, 1, Moves::read,
        [&] { squares_of_blocks(exec_, gradient, squares); });
    row("moving average", DType::f32, 3, Moves::in_place,
        [&] { ema_update(exec_, weight, 0.999, gradient); });
  }

  // What FP8 training does to activations and weights. In bf16 tensors: codes are half of one.
  void quantizing() {
    const Tensor x = wide(DType::bf16);
    const SampleRows rows{4, rows_ / 4, 0, 1};
    const auto codes = [&](CodeFormat format, Tiling tiling, ScaleFormat scales) {
      return QuantizedTensor::empty(
          *exec_.allocator, x.shape(), format, tiling, scales,
          tiling == Tiling::token_tiles ? row_blocks(*exec_.allocator, rows) : Tensor());
    };
    const QuantizedTensor tiles = codes(CodeFormat::f8_e4m3, Tiling::row_tiles, ScaleFormat::fp32),
                          tokens = codes(CodeFormat::f8_e4m3, Tiling::token_tiles, ScaleFormat::fp32),
                          e5m6 = codes(CodeFormat::f12_e5m6, Tiling::row_tiles, ScaleFormat::power_of_two);
    const auto quantize_row = [&](const char* name, double tensors, const QuantizedTensor& q) {
      row(
          name, DType::bf16, tensors, Moves::elsewhere, [&] { (void)quantize(exec_, x, q); }, std::nullopt);
    };
    quantize_row("to E4M3, tiles of 1x128", 1.5, tiles);
    quantize_row("to E4M3, tiles of 128x1", 1.5, tokens);
    quantize_row("to E5M6, tiles of 1x128", 1.75, e5m6);
    row(
        "E4M3 re-tiled to 128x1", DType::bf16, 1, Moves::elsewhere, [&] { retile(exec_, tiles, tokens); },
        std::nullopt);
    row(
        "from E4M3", DType::bf16, 1.5, Moves::elsewhere, [&] { dequantize(exec_, tiles, x); }, std::nullopt);
  }

 private:
  Tensor wide(DType dtype) { return sheet_.tensor({rows_, kWidth}, dtype); }

  Sheet& sheet_;
  Exec& exec_;
  int64_t rows_;
};

void run(const BenchArguments& arguments) {
  Sheet sheet("Ops bound by memory, share of the bandwidth they need", arguments.threads, arguments.filter);
  for (const int64_t rows : {kRows, kRowsCached}) {
    RowsBench bench(sheet, rows);
    for (const DType dtype : {DType::f32, DType::bf16}) {
      bench.norms(dtype);
      bench.swiglu(dtype);
      bench.permutation(dtype);
      bench.elementwise(dtype);
    }
    bench.optimizer();
    bench.quantizing();
  }
}

}  // namespace
}  // namespace moray

int main(int argc, char** argv) {
  return moray::run_bench([&] { moray::run(moray::parse_bench_arguments(argc, argv)); });
}
