// One output at a time. T rows, I inputs, O outputs.
#include "ops/weight_matmul.h"

#include <cmath>

#include "backend/reference/dispatch.h"
#include "backend/reference/kernels.h"
#include "backend/reference/sums.h"

namespace moray::reference {
namespace {

// Codes are summed a k-block at a time, which joins with its scale; other elements have none.
template <class T>
[[gnu::target("fma")]] T row_product(const WeightProduct& p, int64_t t, int64_t o,
                                     const std::vector<T>& row) {
  const T* x = p.x_TI.data<T>() + t * p.w_OI.inputs();
  if (!p.w_OI.scales.defined()) return add_products(T{0}, x, 1, row.data(), 1, p.w_OI.inputs());
  T run = 0;
  for (int64_t k = 0; k < p.w_OI.inputs(); k += kBlock) {
    const T part = add_products(T{0}, x + k, 1, row.data() + k, 1, std::min(kBlock, p.w_OI.inputs() - k));
    run = std::fma(static_cast<T>(weight_scale(p.w_OI, o, k)), part, run);
  }
  return run;
}

void product(const WeightProduct& p) {
  for_real_type(p.y_TO, [&]<class T>(T) {
    std::vector<T> row(static_cast<size_t>(p.w_OI.inputs()));
    for (int64_t o = 0; o < p.w_OI.outputs(); ++o) {
      for (int64_t i = 0; i < p.w_OI.inputs(); ++i)
        row[static_cast<size_t>(i)] = static_cast<T>(weight_value(p.w_OI, o, i));
      for (int64_t t = 0; t < p.x_TI.extent(0); ++t)
        p.y_TO.data<T>()[t * p.w_OI.outputs() + o] = row_product(p, t, o, row);
    }
  });
}

// Activations are quantized as f32 also where sums are f64.
void integer_product(const WeightProduct& p) {
  for_real_type(p.y_TO, [&]<class T>(T) {
    const StoredWeight& w = p.w_OI;
    const int64_t inputs = w.inputs(), blocks = int_row_scales(inputs);
    std::vector<float> row(static_cast<size_t>(inputs)), scales(static_cast<size_t>(blocks));
    std::vector<int8_t> codes(static_cast<size_t>(inputs));
    for (int64_t t = 0; t < p.x_TI.extent(0); ++t) {
      std::transform(p.x_TI.data<T>() + t * inputs, p.x_TI.data<T>() + (t + 1) * inputs, row.begin(),
                     [](T x) { return static_cast<float>(x); });
      quantize_activations_int8(row, codes.data(), scales.data());
      for (int64_t o = 0; o < w.outputs(); ++o) {
        T run = 0;
        for (int64_t b = 0; b < blocks; ++b) {
          int32_t part = 0;
          for (int64_t i = b * kIntBlock; i < std::min((b + 1) * kIntBlock, inputs); ++i)
            part += codes[static_cast<size_t>(i)] * weight_integer(w, o, i);
          const float scale = scales[static_cast<size_t>(b)] * weight_scale(w, o, b * kIntBlock);
          run = std::fma(static_cast<T>(scale), static_cast<T>(part), run);
        }
        p.y_TO.data<T>()[t * w.outputs() + o] = run;
      }
    }
  });
}

void forward(Exec&, std::span<const WeightProduct> products) {
  for (const WeightProduct& p : products)
    if (p.w_OI.is_integer())
      integer_product(p);
    else
      product(p);
}

}  // namespace

WeightMatmulKernels weight_matmul_kernels() {
  return {forward};
}

}  // namespace moray::reference
