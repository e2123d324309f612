// Rows of kv_b_proj are read as they lie, some side by side, and each sum takes them in order; lanes run over
// the columns, which are the outputs.
//
// T tokens, N qk_nope_head_dim.
#include "backend/cpu/mla_absorb.h"

#include <algorithm>
#include <array>
#include <utility>

#include "backend/cpu/attention.h"
#include "backend/cpu/scratch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/mla_absorb.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h, as Highway wants it.
#include "backend/cpu/weight_elements-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kRowsTogether = 8;    // of the weight, widened in registers
constexpr int64_t kTokensTogether = 8;  // whose sums stay in the first cache

// One head and some columns: T queries of N numbers, [T, columns] outputs. The head's key rows begin at
// first_row.
struct AbsorbTask {
  const WeightRows& w;
  int64_t first_row, nope, column, columns;
  const float* q;
  int64_t q_stride;
  float* out;
  int64_t out_stride;

  AbsorbTask tokens_from(int64_t t) const {
    AbsorbTask rest = *this;
    rest.q += t * q_stride;
    rest.out += t * out_stride;
    return rest;
  }
};

// Key rows [n, n + kRows) times the numbers n, n + 1, ... of kTokens queries, added to `parts` row after row.
// Meanwhile memory some KiB ahead is asked for in its own order, because so many rows side by side hide it
// from the processor.
template <class Element, int64_t kRows, int64_t kTokens>
HWY_INLINE void add_rows(const AbsorbTask& task, int64_t first_token, int64_t n, float* parts) {
  constexpr int64_t kAheadBytes = 12288, kLineBytes = 64;
  constexpr int64_t kStepBytes = kRows * RowPiece<Element>::bytes(kInt4Group);
  const float* queries = task.q + first_token * task.q_stride + n;
  parts += first_token * task.columns;
  const std::byte* ahead = task.w.row(task.first_row + n) + kAheadBytes;
  const bool asks = task.columns == task.w.inputs && first_token == 0;
  for (int64_t begin = 0; begin < task.columns; begin += kTile) {
    const int64_t count = std::min(kTile, task.columns - begin);
    const auto pieces = [&]<size_t... r>(std::index_sequence<r...>) HWY_ATTR {
      return std::array{RowPiece<Element>(task.w, task.first_row + n + int64_t{r}, task.column + begin)...};
    }
    (std::make_index_sequence<size_t{kRows}>());
    int64_t i = 0;
    for (; i + kInt4Group <= count; i += kInt4Group, ahead += kStepBytes) {
      for (int64_t line = 0; asks && line < kStepBytes; line += kLineBytes) hwy::Prefetch(ahead + line);
      ElementGroup sums[kTokens];
      for (int64_t t = 0; t < kTokens; ++t)
        for (int64_t v = 0; v < kGroupVectors; ++v)
          sums[t][v] = hn::LoadU(FloatTag(), parts + t * task.columns + begin + i + v * kVectorLanes);
      HWY_UNROLL(8)
      for (int64_t r = 0; r < kRows; ++r) {
        ElementGroup elements;
        pieces[static_cast<size_t>(r)].load_group(i, elements);
        for (int64_t t = 0; t < kTokens; ++t) {
          const FloatVec query = splat(queries[t * task.q_stride + r]);
          for (int64_t v = 0; v < kGroupVectors; ++v) sums[t][v] = hn::MulAdd(query, elements[v], sums[t][v]);
        }
      }
      for (int64_t t = 0; t < kTokens; ++t)
        for (int64_t v = 0; v < kGroupVectors; ++v)
          hn::StoreU(sums[t][v], FloatTag(), parts + t * task.columns + begin + i + v * kVectorLanes);
    }
    if constexpr (!std::is_same_v<Element, Int4>)
      for_vectors(count - i, [&](int64_t j, auto lanes) HWY_ATTR {
        for (int64_t t = 0; t < kTokens; ++t) {
          float* part = parts + t * task.columns + begin + i + j;
          FloatVec sum = lanes.load(part);
          for (int64_t r = 0; r < kRows; ++r) {
            const FloatVec query = splat(queries[t * task.q_stride + r]);
            sum = hn::MulAdd(query, pieces[static_cast<size_t>(r)].load(i + j, lanes), sum);
          }
          lanes.store(sum, part);
        }
      });
  }
}

// The same of all tokens, some at a time, so that their sums stay in registers.
template <class Element, int64_t kRows>
HWY_INLINE void add_rows_of_tokens(const AbsorbTask& task, int64_t tokens, int64_t n, float* parts) {
  constexpr int64_t kTogether = HWY_TARGET == HWY_AVX3 ? 4 : 2;
  int64_t t = 0;
  for (; t + kTogether <= tokens; t += kTogether) add_rows<Element, kRows, kTogether>(task, t, n, parts);
  for (; t < tokens; ++t) add_rows<Element, kRows, 1>(task, t, n, parts);
}

template <class Element>
void absorb_tokens(const AbsorbTask& task, int64_t tokens) {
  static thread_local GrowingBuffer buffer;
  float* parts = buffer.floats(kTokensTogether * task.columns);
  for (int64_t t = 0; t < tokens; ++t) std::fill_n(task.out + t * task.out_stride, task.columns, 0.0f);
  for (int64_t block = 0; block < task.nope; block += kWidthBlock) {
    const int64_t end = std::min(block + kWidthBlock, task.nope);
    std::fill_n(parts, tokens * task.columns, 0.0f);
    int64_t n = block;
    for (; n + kRowsTogether <= end; n += kRowsTogether)
      add_rows_of_tokens<Element, kRowsTogether>(task, tokens, n, parts);
    for (; n < end; ++n) add_rows_of_tokens<Element, 1>(task, tokens, n, parts);
    for (int64_t t = 0; t < tokens; ++t)
      for_vectors(task.columns, [&](int64_t i, auto lanes) HWY_ATTR {
        float* run = task.out + t * task.out_stride + i;
        lanes.store(hn::Add(lanes.load(run), lanes.load(parts + t * task.columns + i)), run);
      });
  }
}

// A task is a head, one stretch of memory; where those are too few for the threads, some tiles of its
// columns.
template <class Element>
void absorb_of(Exec& exec, const Tensor& q, const StoredWeight& weight, const MlaShape& shape,
               const Tensor& q_latent) {
  constexpr int64_t kTasksAThread = 4;
  const WeightRows w(weight);
  const int64_t tokens = q.extent(0), latent = w.inputs, nope = shape.qk_nope_head_dim;
  const int64_t tiles = (latent + kTile - 1) / kTile, wanted = kTasksAThread * exec.pool->threads();
  const int64_t pieces = std::clamp((wanted + shape.heads - 1) / shape.heads, int64_t{1}, tiles);
  const int64_t width = (tiles + pieces - 1) / pieces * kTile;
  const int64_t of_head = (latent + width - 1) / width;
  exec.pool->for_stretches(shape.heads * of_head, [&](int64_t index, int) HWY_ATTR {
    const int64_t head = index / of_head, column = index % of_head * width;
    const AbsorbTask task{w,
                          head * (nope + shape.v_head_dim),
                          nope,
                          column,
                          std::min(width, latent - column),
                          q.data<float>() + head * (nope + shape.qk_rope_head_dim),
                          shape.q_width(),
                          q_latent.data<float>() + head * latent + column,
                          shape.heads * latent};
    for (int64_t t = 0; t < tokens; t += kTokensTogether)
      absorb_tokens<Element>(task.tokens_from(t), std::min(kTokensTogether, tokens - t));
  });
}

}  // namespace

void absorb(Exec& exec, const Tensor& q, const StoredWeight& w, const MlaShape& shape,
            const Tensor& q_latent) {
  switch (w.values_OI.dtype()) {
    case DType::bf16:
      return absorb_of<bf16>(exec, q, w, shape, q_latent);
    case DType::f8_e4m3:
      return absorb_of<e4m3>(exec, q, w, shape, q_latent);
    case DType::i8:
      return absorb_of<int8_t>(exec, q, w, shape, q_latent);
    case DType::u8:
      return absorb_of<Int4>(exec, q, w, shape, q_latent);
    default:
      return absorb_of<float>(exec, q, w, shape, q_latent);
  }
}

}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moray::cpu {
namespace {
HWY_EXPORT(absorb);
}

void absorb_queries(Exec& exec, const Tensor& q, const StoredWeight& kv_b_proj, const MlaShape& shape,
                    const Tensor& q_latent) {
  HWY_DYNAMIC_DISPATCH(absorb)(exec, q, kv_b_proj, shape, q_latent);
}

}  // namespace moray::cpu
#endif  // HWY_ONCE
