// How serving hides communication: two micro-batches run a layer's phases in turn, one computing while the
// other communicates. Phases are those of a transformer block (models/deepseek/block.h).
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace moray {

enum class BlockPhase : uint8_t { kAttention, kDispatch, kExperts, kCombine };
inline constexpr int kBlockPhases = 4;

struct PhaseStep {
  BlockPhase phase = BlockPhase::kAttention;
  int32_t layer = 0;
  int32_t micro_batch = 0;  // 0 or 1

  bool operator==(const PhaseStep&) const = default;
};

// Two lists that run beside each other, each in order. Either may be empty at the ends.
struct OverlapSlot {
  std::vector<PhaseStep> compute;
  std::vector<PhaseStep> beside;
};

// Prefill: attention and experts of one micro-batch over dispatch and combine of the other. Four slots a
// layer: attention 0 | combine 1 (of the layer before), attention 1 | dispatch 0, experts 0 | dispatch 1,
// experts 1 | combine 0; one more slot for the last combine.
std::vector<OverlapSlot> prefill_overlap(int layers);

// Decode: attention of one micro-batch over dispatch, experts and combine of the other. Two slots a layer and
// one for the end.
std::vector<OverlapSlot> decode_overlap(int layers);

// Time of the slots when each list runs in order and a phase also waits for the phase before of its own
// micro-batch. `cost[phase]`: seconds of a phase of one micro-batch.
double overlap_makespan(const std::vector<OverlapSlot>& slots, const std::array<double, kBlockPhases>& cost);

}  // namespace moray
