// T rows, I inputs, O outputs.
#include "backend/cpu/weight_integers.h"

#include <cmath>
#include <vector>

#include "backend/cpu/int_panels.h"

namespace moray::cpu {

namespace {

constexpr int64_t kTaskOutputs = 64;

struct IntegerTask {
  const WeightProduct* product = nullptr;
  const int8_t* codes = nullptr;  // of its x, [T, I]
  const float* scales = nullptr;  // [T, blocks]
  int64_t first_output = 0;
};

[[gnu::target("avx2,fma")]] int32_t dot(const int8_t* x, const int16_t* w, int64_t count) {
  int32_t sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += x[i] * w[i];
  return sum;
}

void run_task(const IntegerTask& task) {
  const StoredWeight& w = task.product->w_OI;
  const int64_t rows = task.product->x_TI.extent(0), inputs = w.inputs(), outputs = w.outputs();
  const int64_t blocks = int_row_scales(inputs);
  float* y = task.product->y_TO.data<float>();
  alignas(64) int16_t integers[kIntBlock];
  for (int64_t o = task.first_output; o < std::min(task.first_output + kTaskOutputs, outputs); ++o) {
    for (int64_t t = 0; t < rows; ++t) y[t * outputs + o] = 0;
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t begin = b * kIntBlock, count = std::min(kIntBlock, inputs - begin);
      weight_integers(w, o, begin, count, integers);
      const float scale = weight_scale(w, o, begin);
      for (int64_t t = 0; t < rows; ++t) {
        const auto part = static_cast<float>(dot(task.codes + t * inputs + begin, integers, count));
        float& run = y[t * outputs + o];
        run = std::fma(task.scales[t * blocks + b] * scale, part, run);
      }
    }
  }
}

}  // namespace

void run_integer_products(Exec& exec, std::span<const WeightProduct> products) {
  run_int_panels(exec, products);
  std::vector<IntegerTask> tasks;
  std::vector<Tensor> kept;
  for (const WeightProduct& p : products) {
    if (!p.w_OI.is_integer() || in_int_panels(p.w_OI) || p.x_TI.extent(0) == 0) continue;
    const int64_t rows = p.x_TI.extent(0), inputs = p.x_TI.extent(1);
    const Tensor codes = Tensor::empty(*exec.allocator, {rows, inputs}, DType::i8);
    const Tensor scales = exec.empty({rows, int_row_scales(inputs)});
    exec.pool->for_each(rows, [&](int64_t t, int) {
      quantize_activations_int8(p.x_TI.row(t).span<float>(), codes.row(t).data<int8_t>(),
                                scales.row(t).data<float>());
    });
    kept.insert(kept.end(), {codes, scales});
    for (int64_t o = 0; o < p.w_OI.outputs(); o += kTaskOutputs)
      tasks.push_back({&p, codes.data<int8_t>(), scales.data<float>(), o});
  }
  exec.pool->for_each(static_cast<int64_t>(tasks.size()),
                      [&](int64_t index, int) { run_task(tasks[static_cast<size_t>(index)]); });
}

}  // namespace moray::cpu
