// T tokens, V vocabulary, D hidden, G gradient groups.
#include "ops/embedding.h"

#include <algorithm>

#include "backend/cpu/dispatch.h"
#include "backend/cpu/element_type.h"
#include "backend/cpu/kernels_list.h"
#include "backend/cpu/pieces.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/embedding.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h, as Highway wants it.
#include "backend/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {
namespace {

// The rows of each block of kRowBlock of a sample, sorted by (id, row).
Tensor rows_by_id(Exec& exec, const int32_t* ids, const SampleRows& rows) {
  const Tensor sorted_T = exec.empty_i32({rows.rows()});
  int32_t* sorted = sorted_T.data<int32_t>();
  const int64_t blocks = (rows.rows_per_sample + kRowBlock - 1) / kRowBlock;
  exec.pool->for_ranges(rows.samples * blocks, 8, [&](int64_t first, int64_t last, int) {
    for (int64_t index = first; index < last; ++index) {
      const int64_t sample = index / blocks;
      const int64_t begin = sample * rows.rows_per_sample + index % blocks * kRowBlock;
      const int64_t end = std::min(begin + kRowBlock, (sample + 1) * rows.rows_per_sample);
      for (int64_t t = begin; t < end; ++t) sorted[t] = static_cast<int32_t>(t);
      std::sort(sorted + begin, sorted + end,
                [ids](int32_t a, int32_t b) { return ids[a] != ids[b] ? ids[a] < ids[b] : a < b; });
    }
  });
  return sorted_T;
}

// Threads share the columns; every column takes the blocks in order.
template <class T>
void backward_weight_columns(Exec& exec, const Tensor& dx_TD, const Tensor& ids_T, const SampleRows& rows,
                             const Tensor& dw_GVD) {
  const int64_t width = dx_TD.extent(1), vocabulary = dw_GVD.extent(1);
  const int32_t* ids = ids_T.data<int32_t>();
  const Tensor sorted_T = rows_by_id(exec, ids, rows);
  const int32_t* sorted = sorted_T.data<int32_t>();
  const T* dx = dx_TD.data<T>();
  float* dw_all = dw_GVD.data<float>();
  // Rows sorted[begin, end) have one id and lie in one block.
  const auto add_rows = [&](int64_t begin, int64_t end, int64_t column, int64_t columns, float* dw) HWY_ATTR {
    for_vectors(columns, [&](int64_t i, auto lanes) HWY_ATTR {
      FloatVec part = hn::Zero(FloatTag());
      for (int64_t r = begin; r < end; ++r)
        part = hn::Add(part, lanes.load(dx + sorted[r] * width + column + i));
      lanes.store(hn::Add(lanes.load(dw + i), part), dw + i);
    });
  };
  exec.pool->for_ranges(
      width, columns_per_piece(rows.rows()), [&](int64_t column, int64_t column_end, int) HWY_ATTR {
        for (int64_t begin = 0, end = 0; begin < rows.rows(); begin = end) {
          const int64_t sample = begin / rows.rows_per_sample, in_sample = begin % rows.rows_per_sample;
          const int64_t block_end =
              begin - in_sample +
              std::min(in_sample / kRowBlock * kRowBlock + kRowBlock, rows.rows_per_sample);
          const int32_t id = ids[sorted[begin]];
          for (end = begin + 1; end < block_end && ids[sorted[end]] == id;) ++end;
          float* dw = dw_all + (rows.group(sample) * vocabulary + id) * width + column;
          add_rows(begin, end, column, column_end - column, dw);
        }
      });
}

void backward_weight(Exec& exec, const Tensor& dx_TD, const Tensor& ids_T, const SampleRows& rows,
                     const Tensor& dw_GVD) {
  for_element_type(dx_TD, [&]<class T>(T) { backward_weight_columns<T>(exec, dx_TD, ids_T, rows, dw_GVD); });
}

template <class From, class To>
void copy_rows(Exec& exec, const Tensor& ids_T, const Tensor& w_VD, const Tensor& x_TD) {
  const int64_t width = w_VD.extent(1);
  const int32_t* ids = ids_T.data<int32_t>();
  const From* w = w_VD.data<From>();
  To* x = x_TD.data<To>();
  exec.pool->for_ranges(x_TD.extent(0), rows_per_piece(width), [&](int64_t begin, int64_t end, int) HWY_ATTR {
    for (int64_t t = begin; t < end; ++t) {
      const From* from = w + ids[t] * width;
      To* to = x + t * width;
      for_vectors(width, [&](int64_t i, auto lanes) HWY_ATTR { lanes.store(lanes.load(from + i), to + i); });
    }
  });
}

void forward(Exec& exec, const Tensor& ids_T, const Tensor& w_VD, const Tensor& x_TD) {
  for_element_type(w_VD, [&]<class From>(From) {
    for_element_type(x_TD, [&]<class To>(To) { copy_rows<From, To>(exec, ids_T, w_VD, x_TD); });
  });
}

EmbeddingKernels kernel_table() {
  EmbeddingKernels table;
  table.forward = forward;
  table.backward_weight = backward_weight;
  return table;
}

}  // namespace
}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moray::cpu {
namespace {
HWY_EXPORT(kernel_table);
EmbeddingKernels table() {
  return HWY_DYNAMIC_DISPATCH(kernel_table)();
}
}  // namespace

void register_embedding() {
  kernels<EmbeddingKernels>(Device::cpu) = {dispatched<&EmbeddingKernels::forward, table>,
                                            dispatched<&EmbeddingKernels::backward_weight, table>};
}

}  // namespace moray::cpu
#endif  // HWY_ONCE
