// T tokens, V vocabulary, D hidden, G gradient groups.
#include "ops/embedding.h"

#include "backend/reference/dispatch.h"
#include "backend/reference/kernels.h"
#include "backend/reference/sums.h"

namespace moray::reference {
namespace {

void forward(Exec&, const Tensor& ids_T, const Tensor& w_VD, const Tensor& x_TD) {
  for_sum_type(x_TD, [&]<class T>(T) {
    const int64_t width = w_VD.extent(1);
    Elements<T> w(w_VD), x(x_TD);
    for (int64_t t = 0; t < ids_T.extent(0); ++t)
      std::copy_n(w.data() + ids_T.data<int32_t>()[t] * width, width, x.data() + t * width);
    x.store();
  });
}

// A token's rows of one block, summed in order, join the table at the first of them.
template <class T>
void add_block(const T* dx, const int32_t* ids, int64_t count, int64_t width, T* dw) {
  for (int64_t first = 0; first < count; ++first) {
    if (std::find(ids, ids + first, ids[first]) != ids + first) continue;
    for (int64_t d = 0; d < width; ++d) {
      T part = 0;
      for (int64_t t = first; t < count; ++t)
        if (ids[t] == ids[first]) part += dx[t * width + d];
      dw[ids[first] * width + d] += part;
    }
  }
}

void backward_weight(Exec&, const Tensor& dx_TD, const Tensor& ids_T, const SampleRows& rows,
                     const Tensor& dw_GVD) {
  for_real_type(dw_GVD, [&]<class T>(T) {
    Elements<T> dx(dx_TD);
    const int64_t width = dx_TD.extent(1), table = dw_GVD.extent(1) * width;
    for (int64_t s = 0; s < rows.samples; ++s) {
      const int64_t sample_end = (s + 1) * rows.rows_per_sample;
      for (int64_t begin = s * rows.rows_per_sample; begin < sample_end; begin += kBlock)
        add_block(dx.data() + begin * width, ids_T.data<int32_t>() + begin,
                  std::min(kBlock, sample_end - begin), width, dw_GVD.data<T>() + rows.group(s) * table);
    }
  });
}

}  // namespace

EmbeddingKernels embedding_kernels() {
  return {.forward = forward, .backward_weight = backward_weight};
}

}  // namespace moray::reference
