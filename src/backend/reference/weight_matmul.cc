// One output at a time. T rows, I inputs, O outputs.
#include "ops/weight_matmul.h"

#include <cmath>

#include "backend/reference/dispatch.h"
#include "backend/reference/kernels.h"
#include "backend/reference/sums.h"

namespace moray::reference {
namespace {

void product(const WeightProduct& p) {
  for_real_type(p.y_TO, [&]<class T>(T) {
    std::vector<T> row(static_cast<size_t>(p.w_OI.inputs()));
    for (int64_t o = 0; o < p.w_OI.outputs(); ++o) {
      for (int64_t i = 0; i < p.w_OI.inputs(); ++i) row[static_cast<size_t>(i)] = weight_element<T>(p.w_OI, o, i);
      for (int64_t t = 0; t < p.x_TI.extent(0); ++t)
        p.y_TO.data<T>()[t * p.w_OI.outputs() + o] =
            add_products(T{0}, p.x_TI.data<T>() + t * p.w_OI.inputs(), 1, row.data(), 1, p.w_OI.inputs());
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
          const float scale = scales[static_cast<size_t>(b)] * w.scales.data<float>()[o * blocks + b];
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
