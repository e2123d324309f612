// The output head fused with its loss, against the multiply-add peak: one product forward, three with the
// backward pass, and a softmax. Usage: cross_entropy_bench [THREADS] [avx2|avx512] [FILTER].
#include <fmt/format.h>

#include "bench/sheet.h"
#include "ops/cross_entropy.h"

namespace moray {
namespace {

void measure(Sheet& sheet, int64_t rows, int64_t hidden, int64_t vocabulary, DType dtype) {
  const Tensor h = sheet.tensor({rows, hidden}, dtype), w = sheet.tensor({vocabulary, hidden}, dtype);
  const Tensor dh = sheet.tensor({rows, hidden}, dtype), dw = sheet.tensor({1, vocabulary, hidden});
  const Tensor loss = sheet.tensor({rows}),
               targets = Tensor::zeros(*sheet.exec().allocator, {rows}, DType::i32);
  const std::string name = fmt::format("{} {} rows x {} x {}", dtype_name(dtype), rows, hidden, vocabulary);
  const double product = 2.0 * static_cast<double>(rows * hidden * vocabulary);
  sheet.compute_row(name + " forward", product,
                    {{"moray", [&] { cross_entropy_forward(sheet.exec(), h, w, targets, loss); }}});
  sheet.compute_row(
      name + " forward and backward", 3 * product,
      {{"moray", [&] {
          cross_entropy_forward_backward(sheet.exec(), h, w, targets, {1, rows, 0, 1}, 1e-3, loss, dh, dw);
        }}});
}

void run(const BenchArguments& arguments) {
  Sheet sheet("Cross-entropy with the output head, share of the multiply-add peak", arguments.threads,
              arguments.filter);
  measure(sheet, 1024, 384, 8192, DType::f32);  // the recipe small
  measure(sheet, 512, 256, 4096, DType::f32);
  measure(sheet, 256, 2048, 16384, DType::f32);
  measure(sheet, 256, 2048, 16384, DType::bf16);
}

}  // namespace
}  // namespace moray

int main(int argc, char** argv) {
  return moray::run_bench([&] { moray::run(moray::parse_bench_arguments(argc, argv)); });
}
