// T tokens, K experts a token, R = T·K expert rows, D width, E experts, S samples.
#include "ops/permute.h"

#include <cstring>

#include "backend/cpu/dispatch.h"
#include "backend/cpu/element_type.h"
#include "backend/cpu/kernels_list.h"
#include "backend/cpu/pieces.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/permute.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h, as Highway wants it.
#include "backend/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {
namespace {

template <class T>
struct CombineToken {
  const T* y;          // all expert rows
  const float* gates;  // of this token; null: all 1
  const int32_t* ids;  // ascending
  const int32_t* rows;
  int64_t choices, experts_per_group, width;
};

// The token's sum at column i: groups in order, each rounded to the rows' type; experts in order inside.
template <class T, class Lanes>
HWY_INLINE FloatVec combined(const CombineToken<T>& token, int64_t i, Lanes lanes) {
  FloatVec total = hn::Zero(FloatTag());
  for (int64_t k = 0; k < token.choices;) {
    const int64_t group_end = (token.ids[k] / token.experts_per_group + 1) * token.experts_per_group;
    FloatVec part = hn::Zero(FloatTag());
    for (; k < token.choices && token.ids[k] < group_end; ++k) {
      const FloatVec y = lanes.load(token.y + token.rows[k] * token.width + i);
      part = token.gates != nullptr ? hn::MulAdd(splat(token.gates[k]), y, part) : hn::Add(part, y);
    }
    total = hn::Add(total, rounded_to<T>(part));
  }
  return total;
}

template <class T>
void combine_rows_of(Exec& exec, const Tensor& y_RD, const Tensor& gates_TK, const Tensor& ids_TK,
                     const Tensor& row_TK, int64_t experts_per_group, const Tensor& out_TD, bool accumulate) {
  const int64_t width = out_TD.extent(1), choices = ids_TK.extent(1);
  const T* y = y_RD.data<T>();
  const float* gates = gates_TK.defined() ? gates_TK.data<float>() : nullptr;
  const int32_t *ids = ids_TK.data<int32_t>(), *rows = row_TK.data<int32_t>();
  T* out_all = out_TD.data<T>();
  const int64_t piece = rows_per_piece(width * choices);
  exec.pool->for_ranges(out_TD.extent(0), piece, [&](int64_t begin, int64_t end, int) HWY_ATTR {
    for (int64_t t = begin; t < end; ++t) {
      const CombineToken<T> token = {y,
                                     gates != nullptr ? gates + t * choices : nullptr,
                                     ids + t * choices,
                                     rows + t * choices,
                                     choices,
                                     experts_per_group,
                                     width};
      T* out = out_all + t * width;
      for_vectors(width, [&](int64_t i, auto lanes) HWY_ATTR {
        const FloatVec total = combined(token, i, lanes);
        lanes.store(accumulate ? hn::Add(lanes.load(out + i), total) : total, out + i);
      });
    }
  });
}

void combine_rows(Exec& exec, const Tensor& y_RD, const Tensor& gates_TK, const Tensor& ids_TK,
                  const Tensor& row_TK, int64_t experts_per_group, const Tensor& out_TD, bool accumulate) {
  for_element_type(out_TD, [&]<class T>(T) {
    combine_rows_of<T>(exec, y_RD, gates_TK, ids_TK, row_TK, experts_per_group, out_TD, accumulate);
  });
}

// Bytes of a row as they are, whatever the type.
template <bool kStreamed>
void copy_row(const std::byte* from, std::byte* to, size_t bytes) {
  const hn::ScalableTag<uint8_t> d;
  const auto* in = reinterpret_cast<const uint8_t*>(from);
  auto* out = reinterpret_cast<uint8_t*>(to);
  size_t i = 0;
  for (; i + hn::Lanes(d) <= bytes; i += hn::Lanes(d))
    if constexpr (kStreamed)
      hn::Stream(hn::LoadU(d, in + i), d, out + i);
    else
      hn::StoreU(hn::LoadU(d, in + i), d, out + i);
  std::memcpy(out + i, in + i, bytes - i);
}

template <bool kStreamed>
void gather_rows_of(Exec& exec, const Tensor& x_TD, const Tensor& token_R, const Tensor& x_RD) {
  const size_t bytes = static_cast<size_t>(x_TD.extent(1)) * dtype_bytes(x_TD.dtype());
  const int32_t* token = token_R.data<int32_t>();
  exec.pool->for_ranges(x_RD.extent(0), rows_per_piece(x_TD.extent(1)), [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r)
      copy_row<kStreamed>(x_TD.raw() + static_cast<size_t>(token[r]) * bytes,
                          x_RD.raw() + static_cast<size_t>(r) * bytes, bytes);
    hwy::FlushStream();
  });
}

void gather_rows(Exec& exec, const Tensor& x_TD, const Tensor& token_R, const Tensor& x_RD) {
  MORAY_CHECK(x_TD.dtype() == x_RD.dtype());
  if (beyond_caches(x_RD))
    gather_rows_of<true>(exec, x_TD, token_R, x_RD);
  else
    gather_rows_of<false>(exec, x_TD, token_R, x_RD);
}

PermuteKernels kernel_table() {
  PermuteKernels table;
  table.gather_rows = gather_rows;
  table.combine_rows = combine_rows;
  return table;
}

}  // namespace
}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moray::cpu {
namespace {
HWY_EXPORT(kernel_table);
PermuteKernels table() {
  return HWY_DYNAMIC_DISPATCH(kernel_table)();
}

// The counting sort runs over pieces of at most this many tokens, none straddling two samples; 8 choices each
// are about 20 µs.
constexpr int64_t kPlanTokens = 1024;

struct PlanPieces {
  int64_t samples, rows_per_sample;
  int64_t per_sample() const { return (rows_per_sample + kPlanTokens - 1) / kPlanTokens; }
  int64_t count() const { return samples * per_sample(); }
  int64_t begin(int64_t piece) const {
    return piece / per_sample() * rows_per_sample + piece % per_sample() * kPlanTokens;
  }
  int64_t end(int64_t piece) const {
    return std::min(begin(piece) + kPlanTokens, (piece / per_sample() + 1) * rows_per_sample);
  }
};

// Turns counts (pieces × experts) into the first row of each (expert, piece), and writes the offsets of
// (expert, sample).
void counts_to_rows(const PlanPieces& pieces, int64_t experts, int32_t* counts, int32_t* offsets_ES) {
  int32_t row = 0;
  for (int64_t e = 0; e < experts; ++e)
    for (int64_t piece = 0; piece < pieces.count(); ++piece) {
      if (piece % pieces.per_sample() == 0) *offsets_ES++ = row;
      const int32_t count = counts[piece * experts + e];
      counts[piece * experts + e] = row;
      row += count;
    }
  *offsets_ES = row;
}

void plan(Exec& exec, const Tensor& ids_TK, DispatchPlan& plan) {
  const int64_t choices = ids_TK.extent(1), experts = plan.rows.experts;
  const PlanPieces pieces = {plan.rows.samples, ids_TK.extent(0) / plan.rows.samples};
  const Tensor counts_PE = exec.empty_i32({pieces.count(), experts});
  counts_PE.fill_zero();
  int32_t* counts = counts_PE.data<int32_t>();
  const int32_t* ids = ids_TK.data<int32_t>();
  exec.pool->for_each(pieces.count(), [&](int64_t piece, int) {
    for (int64_t c = pieces.begin(piece) * choices; c < pieces.end(piece) * choices; ++c) {
      MORAY_CHECK(ids[c] >= 0 && ids[c] < experts, "[dispatch_plan] expert {} of {}", ids[c], experts);
      ++counts[piece * experts + ids[c]];
    }
  });
  counts_to_rows(pieces, experts, counts, plan.rows.offsets_ES.data<int32_t>());
  int32_t *token_R = plan.token_R.data<int32_t>(), *choice_R = plan.choice_R.data<int32_t>();
  int32_t* row_TK = plan.row_TK.data<int32_t>();
  exec.pool->for_each(pieces.count(), [&](int64_t piece, int) {
    for (int64_t c = pieces.begin(piece) * choices; c < pieces.end(piece) * choices; ++c) {
      const int32_t row = counts[piece * experts + ids[c]]++;
      token_R[row] = static_cast<int32_t>(c / choices);
      choice_R[row] = static_cast<int32_t>(c);
      row_TK[c] = row;
    }
  });
}

void gather_values(Exec& exec, const Tensor& values_tensor, const Tensor& index_R, const Tensor& out_R) {
  const float* values = values_tensor.data<float>();
  const int32_t* index = index_R.data<int32_t>();
  float* out = out_R.data<float>();
  exec.pool->for_ranges(out_R.elements(), kPieceElements, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) out[r] = values[index[r]];
  });
}

}  // namespace

void register_permute() {
  kernels<PermuteKernels>(Device::cpu) = {plan, dispatched<&PermuteKernels::gather_rows, table>,
                                          dispatched<&PermuteKernels::combine_rows, table>, gather_values};
}

}  // namespace moray::cpu
#endif  // HWY_ONCE
