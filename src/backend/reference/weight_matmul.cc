// One output at a time. T rows, I inputs, O outputs.
#include "ops/weight_matmul.h"

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

void forward(Exec&, std::span<const WeightProduct> products) {
  for (const WeightProduct& p : products) product(p);
}

}  // namespace

WeightMatmulKernels weight_matmul_kernels() {
  return {forward};
}

}  // namespace moray::reference
