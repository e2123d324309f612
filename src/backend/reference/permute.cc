// T tokens, K experts a token, R = T·K expert rows, E experts, S samples, D width.
#include "ops/permute.h"

#include "backend/reference/dispatch.h"
#include "backend/reference/kernels.h"
#include "backend/reference/sums.h"

namespace moray::reference {
namespace {

void plan(Exec&, const Tensor& ids_TK, DispatchPlan& plan) {
  const int64_t experts = plan.rows.experts, samples = plan.rows.samples;
  const int64_t choices = ids_TK.extent(1), rows_per_sample = ids_TK.extent(0) / samples;
  const std::span<const int32_t> ids = ids_TK.span<int32_t>();
  int32_t row = 0;
  for (int64_t e = 0; e < experts; ++e)
    for (int64_t s = 0; s < samples; ++s) {
      plan.rows.offsets_ES.data<int32_t>()[e * samples + s] = row;
      for (int64_t c = s * rows_per_sample * choices; c < (s + 1) * rows_per_sample * choices; ++c) {
        if (ids[static_cast<size_t>(c)] != e) continue;
        plan.token_R.data<int32_t>()[row] = static_cast<int32_t>(c / choices);
        plan.choice_R.data<int32_t>()[row] = static_cast<int32_t>(c);
        plan.row_TK.data<int32_t>()[c] = row++;
      }
    }
  plan.rows.offsets_ES.data<int32_t>()[experts * samples] = row;
  MORAY_CHECK(row == ids_TK.elements(), "{} of {} choices name an expert below {}", row, ids_TK.elements(),
              experts);
}

void gather_rows(Exec&, const Tensor& x_TD, const Tensor& token_R, const Tensor& x_RD) {
  for (int64_t r = 0; r < token_R.extent(0); ++r) x_RD.row(r).copy_from(x_TD.row(token_R.data<int32_t>()[r]));
}

// As it comes back from storage in `dtype`.
template <class T>
T rounded_to(DType dtype, T value) {
  return dtype == DType::bf16 ? static_cast<T>(to_float(to_bf16(static_cast<float>(value)))) : value;
}

// One group's outputs add up apart before they join the token's sum, rounded to the type of the rows.
template <class T>
T combined(DType dtype, const T* y, int64_t width, const T* gates, const int32_t* ids, const int32_t* rows,
           int64_t choices, int64_t experts_per_group) {
  T sum = 0;
  for (int64_t k = 0; k < choices;) {
    const int64_t group = ids[k] / experts_per_group;
    T part = 0;
    for (; k < choices && ids[k] / experts_per_group == group; ++k)
      part = std::fma(gates != nullptr ? gates[k] : T{1}, y[rows[k] * width], part);
    sum += rounded_to(dtype, part);
  }
  return sum;
}

void combine_rows(Exec&, const Tensor& y_RD, const Tensor& gates_TK, const Tensor& ids_TK,
                  const Tensor& row_TK, int64_t experts_per_group, const Tensor& out_TD, bool accumulate) {
  for_sum_type(out_TD, [&]<class T>(T) {
    Elements<T> y(y_RD), out_all(out_TD);
    const int64_t choices = ids_TK.extent(1), width = out_TD.extent(1);
    for (int64_t t = 0; t < out_TD.extent(0); ++t)
      for (int64_t d = 0; d < width; ++d) {
        const T* gates = gates_TK.defined() ? gates_TK.data<T>() + t * choices : nullptr;
        const T sum = combined(y_RD.dtype(), y.data() + d, width, gates, ids_TK.data<int32_t>() + t * choices,
                               row_TK.data<int32_t>() + t * choices, choices, experts_per_group);
        T& out = out_all.data()[t * width + d];
        out = accumulate ? out + sum : sum;
      }
    out_all.store();
  });
}

void gather_values(Exec&, const Tensor& values, const Tensor& index_R, const Tensor& out_R) {
  for_real_type(out_R, [&]<class T>(T) {
    for (int64_t r = 0; r < index_R.elements(); ++r)
      out_R.data<T>()[r] = values.data<T>()[index_R.data<int32_t>()[r]];
  });
}

}  // namespace

PermuteKernels permute_kernels() {
  return {
      .plan = plan, .gather_rows = gather_rows, .combine_rows = combine_rows, .gather_values = gather_values};
}

}  // namespace moray::reference
