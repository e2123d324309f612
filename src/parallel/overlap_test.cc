#include "parallel/overlap.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/test_help.h"

namespace moray {
namespace {

using enum BlockPhase;

// Both lanes slot after slot: every micro-batch runs every phase of every layer once and in order, and never
// two at the same time.
void expect_in_order(const std::vector<OverlapSlot>& slots, int layers) {
  int next[2] = {0, 0};
  for (const OverlapSlot& slot : slots)
    for (const auto* lane : {&slot.beside, &slot.compute})
      for (const PhaseStep& step : *lane) {
        EXPECT_EQ(step.layer * kBlockPhases + static_cast<int>(step.phase), next[step.micro_batch]++);
        const auto* other = lane == &slot.compute ? &slot.beside : &slot.compute;
        EXPECT_TRUE(std::none_of(other->begin(), other->end(), [&](const PhaseStep& beside) {
          return beside.micro_batch == step.micro_batch;
        }));
      }
  EXPECT_EQ(next[0], layers * kBlockPhases);
  EXPECT_EQ(next[1], layers * kBlockPhases);
}

TEST(Overlap, EveryPhaseOnceInOrder) {
  for (const int layers : {1, 2, 61}) {
    expect_in_order(prefill_overlap(layers), layers);
    expect_in_order(decode_overlap(layers), layers);
  }
}

TEST(Overlap, PrefillComputesOverCommunication) {
  for (const OverlapSlot& slot : prefill_overlap(3)) {
    for (const PhaseStep& step : slot.compute)
      EXPECT_TRUE(step.phase == kAttention || step.phase == kExperts);
    for (const PhaseStep& step : slot.beside) EXPECT_TRUE(step.phase == kDispatch || step.phase == kCombine);
  }
}

TEST(Overlap, DecodeRunsAttentionOverTheRest) {
  const std::vector<OverlapSlot> slots = decode_overlap(2);
  ASSERT_EQ(slots.size(), 5u);
  EXPECT_EQ(slots[2].compute, (std::vector<PhaseStep>{{kAttention, 1, 0}}));
  EXPECT_EQ(slots[2].beside, (std::vector<PhaseStep>{{kDispatch, 0, 1}, {kExperts, 0, 1}, {kCombine, 0, 1}}));
}

TEST(Overlap, Makespan) {
  // Communication hidden but for the first wait and the last combine: 2 micro-batches × 3 layers × (3 + 4)
  // + 2.
  EXPECT_EQ(overlap_makespan(prefill_overlap(3), {3, 1, 4, 2}), 2 * 3 * 7 + 2);
  // Communication longer than compute is what remains: attention before the first dispatch, then dispatch 3,
  // dispatch 3, combine 5, combine 5 a layer.
  EXPECT_EQ(overlap_makespan(prefill_overlap(4), {1, 3, 1, 5}), 1 + 4 * (3 + 3 + 5 + 5));
  // Decode, attention as long as the rest together: two slots a layer and one for the end.
  EXPECT_EQ(overlap_makespan(decode_overlap(5), {6, 1, 3, 2}), (2 * 5 + 1) * 6);
  // One micro-batch after the other would take 2 · layers · the sum.
  EXPECT_LT(overlap_makespan(decode_overlap(5), {6, 1, 3, 2}), 2 * 5 * 12);
}

TEST(Overlap, LayersHaveBounds) {
  EXPECT_EQ(test::error_of([] { prefill_overlap(0); }),
            "overlap: layers must be between 1 and 1048576, got 0");
  EXPECT_EQ(test::error_of([] { decode_overlap(-1); }),
            "overlap: layers must be between 1 and 1048576, got -1");
}

}  // namespace
}  // namespace moray
