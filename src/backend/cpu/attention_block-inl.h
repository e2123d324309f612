// Steps on blocks that attention's forward and backward passes share.

// Included once per Highway target, hence the toggled guard.
#if defined(MORAY_BACKEND_CPU_ATTENTION_BLOCK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MORAY_BACKEND_CPU_ATTENTION_BLOCK_INL_H_
#undef MORAY_BACKEND_CPU_ATTENTION_BLOCK_INL_H_
#else
#define MORAY_BACKEND_CPU_ATTENTION_BLOCK_INL_H_
#endif

#include "backend/cpu/attention.h"
#include "backend/cpu/attention_tile-inl.h"
#include "backend/cpu/vector_math.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {

// The keys of a block as whole rows [keys, N + R]: the head's own part, then the shared rotary one.
inline void copy_keys(const AttentionHead& head, int64_t first, int64_t keys, float* k_rows) {
  const auto copy = [](const float* from, int64_t count, float* to) HWY_ATTR {
    for_vectors(count, [&](int64_t i, auto lanes) HWY_ATTR { lanes.store(lanes.load(from + i), to + i); });
  };
  for (int64_t k = 0; k < keys; ++k) {
    float* row = k_rows + k * head.key();
    copy(head.kv + (first + k) * head.kv_stride, head.nope, row);
    copy(head.k_rope + (first + k) * head.rope, head.rope, row + head.nope);
  }
}

// C = A · B over a head's width, in chains of at most kWidthBlock joined in order.
inline void multiply_over_width(int64_t rows, LeftOperand a, RightOperand b, int64_t width, const Output& c) {
  multiply<Order::rows, Join::set>(rows, a, b, std::min(kWidthBlock, width), c);
  for (int64_t k = kWidthBlock; k < width; k += kWidthBlock)
    multiply<Order::rows, Join::add>(rows, {a.data + k, a.stride}, {b.panels + k * kPanel, b.panel_stride},
                                     std::min(kWidthBlock, width - k), c);
}

// Which keys of a block one vector of queries sees.
struct Visible {
  FloatVec position, start;  // of the queries in the sample
  int64_t first_key;         // of the block

  HWY_INLINE auto mask(int64_t key) const {
    const FloatVec at = splat(static_cast<float>(first_key + key));
    return hn::And(hn::Le(at, position), hn::Ge(at, start));
  }
};

// What soften_columns leaves beside the probabilities.
struct Softened {
  FloatVec greatest, sum;
};

// Turns a block's scores of one vector of queries, one row a key, into exp(scaled score − greatest), the
// greatest being of these and `before`. Keys before `open` need no mask; from `count` on none is touched.
HWY_NOINLINE inline Softened soften_columns(float* column, int64_t stride, int64_t open, int64_t count,
                                            float scale_f, FloatVec before, const Visible& visible) {
  const FloatTag d;
  const FloatVec scale = splat(scale_f), lowest = splat(kLowestScore);
  FloatVec lane[kVirtualLanes];
  for (FloatVec& greatest : lane) greatest = before;
  for (int64_t k = 0; k < count; ++k) {
    FloatVec s = hn::Mul(hn::Load(d, column + k * stride), scale);
    if (k >= open) s = hn::IfThenElse(visible.mask(k), s, lowest);
    lane[k % kVirtualLanes] = hn::Max(s, lane[k % kVirtualLanes]);
  }
  FloatVec greatest = lane[0];
  for (FloatVec& other : lane) greatest = hn::Max(other, greatest);
  for (FloatVec& sum : lane) sum = hn::Zero(d);
  for (int64_t k = 0; k < count; ++k) {
    float* at = column + k * stride;
    FloatVec p = vector_exp_nonpositive(d, hn::Sub(hn::Mul(hn::Load(d, at), scale), greatest));
    if (k >= open) p = hn::IfThenElseZero(visible.mask(k), p);
    hn::Store(p, d, at);
    lane[k % kVirtualLanes] = hn::Add(lane[k % kVirtualLanes], p);
  }
  for (int64_t half = kVirtualLanes / 2; half >= 1; half /= 2)
    for (int64_t j = 0; j < half; ++j) lane[j] = hn::Add(lane[j], lane[j + half]);
  return {greatest, lane[0]};
}

}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
