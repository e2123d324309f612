// P positions, J pairs, T rows, W row width.
#include "ops/rope.h"

#include "backend/reference/dispatch.h"
#include "backend/reference/kernels.h"

namespace moray::reference {
namespace {

void apply(Exec&, const Tensor& x_TW, const RopeLayout& layout, const Tensor& cos_PJ, const Tensor& sin_PJ,
           int64_t rows_per_sample, bool inverse) {
  for_sum_type(x_TW, [&]<class T>(T) {
    const int64_t pairs = cos_PJ.extent(1);
    Elements<T> cosines(cos_PJ), sines(sin_PJ), x_all(x_TW);
    for (int64_t t = 0; t < x_TW.extent(0); ++t)
      for (int64_t head = 0; head < layout.heads; ++head) {
        T* x = x_all.data() + t * x_TW.extent(1) + (head + 1) * layout.head_width - 2 * pairs;
        for (int64_t j = 0; j < pairs; ++j) {
          const int64_t angle = t % rows_per_sample * pairs + j;
          const T cosine = cosines.data()[angle];
          const T sine = inverse ? -sines.data()[angle] : sines.data()[angle];
          const T even = x[2 * j], odd = x[2 * j + 1];
          x[2 * j] = even * cosine - odd * sine;
          x[2 * j + 1] = even * sine + odd * cosine;
        }
      }
    x_all.store();
  });
}

}  // namespace

RopeKernels rope_kernels() {
  return {.apply = apply};
}

}  // namespace moray::reference
