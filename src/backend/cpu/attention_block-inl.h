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

}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
