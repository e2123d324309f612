#include "parallel/overlap.h"

#include <algorithm>

#include "base/error.h"

namespace moray {

namespace {

constexpr int kMostLayers = 1 << 20;

void check_layers(int layers) {
  if (layers < 1 || layers > kMostLayers)
    fail("overlap: layers must be between 1 and {}, got {}", kMostLayers, layers);
}

}  // namespace

std::vector<OverlapSlot> prefill_overlap(int layers) {
  check_layers(layers);
  std::vector<OverlapSlot> slots;
  for (int layer = 0; layer < layers; ++layer) {
    slots.push_back({{{BlockPhase::kAttention, layer, 0}}, {}});
    if (layer > 0) slots.back().beside = {{BlockPhase::kCombine, layer - 1, 1}};
    slots.push_back({{{BlockPhase::kAttention, layer, 1}}, {{BlockPhase::kDispatch, layer, 0}}});
    slots.push_back({{{BlockPhase::kExperts, layer, 0}}, {{BlockPhase::kDispatch, layer, 1}}});
    slots.push_back({{{BlockPhase::kExperts, layer, 1}}, {{BlockPhase::kCombine, layer, 0}}});
  }
  slots.push_back({{}, {{BlockPhase::kCombine, layers - 1, 1}}});
  return slots;
}

std::vector<OverlapSlot> decode_overlap(int layers) {
  check_layers(layers);
  const auto experts = [](int layer, int micro_batch) {
    return std::vector<PhaseStep>{{BlockPhase::kDispatch, layer, micro_batch},
                                  {BlockPhase::kExperts, layer, micro_batch},
                                  {BlockPhase::kCombine, layer, micro_batch}};
  };
  std::vector<OverlapSlot> slots;
  for (int layer = 0; layer < layers; ++layer) {
    slots.push_back({{{BlockPhase::kAttention, layer, 0}}, {}});
    if (layer > 0) slots.back().beside = experts(layer - 1, 1);
    slots.push_back({{{BlockPhase::kAttention, layer, 1}}, experts(layer, 0)});
  }
  slots.push_back({{}, experts(layers - 1, 1)});
  return slots;
}

double overlap_makespan(const std::vector<OverlapSlot>& slots, const std::array<double, kBlockPhases>& cost) {
  std::array<double, 2> lane{}, micro_batch{};  // when each is free again
  const auto run = [&](const std::vector<PhaseStep>& steps, double& free) {
    for (const PhaseStep& step : steps) {
      double& own = micro_batch.at(static_cast<size_t>(step.micro_batch));
      free = own = std::max(free, own) + cost.at(static_cast<size_t>(step.phase));
    }
  };
  for (const OverlapSlot& slot : slots) {
    run(slot.compute, lane[0]);
    run(slot.beside, lane[1]);
  }
  return std::max(lane[0], lane[1]);
}

}  // namespace moray
