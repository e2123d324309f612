// The product of up to four rows with a weight in panels (tensor/panels.h), at memory speed: panel after
// panel, a task is one stretch of memory read from its beginning to its end.

// Included once per Highway target, hence the toggled guard.
#if defined(MORAY_WEIGHT_PANELS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MORAY_WEIGHT_PANELS_INL_H_
#undef MORAY_WEIGHT_PANELS_INL_H_
#else
#define MORAY_WEIGHT_PANELS_INL_H_
#endif

#include <array>

#include "backend/cpu/weight_rows.h"
#include "backend/cpu/weight_words-inl.h"
#include "tensor/panels.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {
namespace {

constexpr size_t kPanelStep = static_cast<size_t>(kPanelRows);  // words from line to line
constexpr size_t kPanelVectors = kPanelStep / kWordLanes;
// Asked for ahead where blocks go side by side: the processor's own prefetching follows one stream, and best
// alone (docs/results/panel-reading.txt, serving-speed.md).
constexpr size_t kAheadBytes = 12288;

// One panel times kRows rows.
template <class Element, size_t kRows>
struct PanelProduct {
  const RowsTask& task;
  int64_t first_output;
  FloatVec run[kPanelVectors][kRows];

  // kSide blocks from k on side by side, of `length` k each: as many independent chains of FMAs.
  template <size_t kSide>
  HWY_INLINE void blocks(int64_t k, int64_t length) {
    constexpr size_t kBlockWords = static_cast<size_t>(kKBlock) / kInWord<Element>;
    const auto* words = reinterpret_cast<const uint32_t*>(
        task.weight->values_OI.raw() +
        (first_output * task.weight->inputs() + k * kPanelRows) * int64_t{sizeof(Element)});
    FloatVec part[kSide * kPanelVectors][kRows];
    multiply_words<Element, kPanelStep>(
        static_cast<size_t>(length) / kInWord<Element>,
        [&](size_t v)
            HWY_ATTR { return words + v % kSide * kBlockWords * kPanelStep + v / kSide * kWordLanes; },
        [&](size_t v, size_t r) HWY_ATTR {
          return task.x + static_cast<int64_t>(r) * task.x_stride + k +
                 static_cast<int64_t>(v % kSide) * kKBlock;
        },
        [&](size_t w) HWY_ATTR {
          if constexpr (sizeof(Element) > 1) return;
          HWY_UNROLL(4)
          for (size_t side = 0; side < kSide; ++side)
            hwy::Prefetch(words + (w * kSide + side) * kPanelStep + kAheadBytes / sizeof(uint32_t));
        },
        part);
    for (size_t side = 0; side < kSide; ++side)
      for (size_t v = 0; v < kPanelVectors; ++v) {
        const FloatVec scale = scales<Element>(task, first_output + static_cast<int64_t>(v * kWordLanes),
                                               k + static_cast<int64_t>(side) * kKBlock);
        for (size_t r = 0; r < kRows; ++r)
          run[v][r] = joined_part<Element>(part[v * kSide + side][r], scale, run[v][r]);
      }
  }

  HWY_NOINLINE void multiply() {
    // A chain of FMAs is as long as the k of its block: for BF16 about as long as memory takes for its bytes,
    // for codes twice as long. More than eight chains would not fit AVX2's registers.
    constexpr size_t kSide = sizeof(Element) > 1 ? 1 : std::clamp<size_t>(8 / (kRows * kPanelVectors), 1, 2);
    for (auto& of_rows : run)
      for (FloatVec& sum : of_rows) sum = hn::Zero(FloatTag());
    const int64_t inputs = task.weight->inputs();
    int64_t k = 0;
    for (; k + int64_t{kSide} * kKBlock <= inputs; k += int64_t{kSide} * kKBlock) blocks<kSide>(k, kKBlock);
    for (; k < inputs; k += kKBlock) blocks<1>(k, std::min(kKBlock, inputs - k));
    for (size_t v = 0; v < kPanelVectors; ++v)
      for (size_t r = 0; r < kRows; ++r)
        hn::StoreU(run[v][r], FloatTag(),
                   task.y + static_cast<int64_t>(r) * task.weight->outputs() + first_output +
                       static_cast<int64_t>(v * kWordLanes));
  }
};

template <class Element, size_t kRows>
void panels_task(const RowsTask& task) {
  for (int64_t o = task.first_output; o < task.first_output + task.outputs; o += kPanelRows)
    PanelProduct<Element, kRows>{task, o, {}}.multiply();
}

template <class Element>
void panels_task_of(const RowsTask& task) {
  switch (task.rows) {
    case 1:
      return panels_task<Element, 1>(task);
    case 2:
      return panels_task<Element, 2>(task);
    case 3:
      return panels_task<Element, 3>(task);
    default:
      return panels_task<Element, 4>(task);
  }
}

}  // namespace
}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
