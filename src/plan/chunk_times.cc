#include "plan/chunk_times.h"

#include "plan/chunk_pair.h"

namespace moray::plan {

namespace {

constexpr size_t F = static_cast<size_t>(Pass::forward);
constexpr size_t B = static_cast<size_t>(Pass::backward_input);
constexpr size_t W = static_cast<size_t>(Pass::backward_weight);

// Layers as predicted, then what is beside them.
ChunkTime with_rest(const PairPrediction& pair, double rest_seconds) {
  return {pair.seconds + rest_seconds, pair.compute_seconds + rest_seconds, pair.exposed_seconds};
}

}  // namespace

ChunkTime forward_alone(const StageWork& stage, const Machine& machine) {
  return with_rest(predict_pair(stage.layers, {}, machine), machine.seconds(stage.rest[F]));
}

ChunkTime backward_alone(const StageWork& stage, const Machine& machine) {
  return with_rest(predict_pair({}, stage.layers, machine),
                   machine.seconds(stage.rest[B]) + machine.seconds(stage.rest[W]));
}

ChunkTime backward_input_alone(const StageWork& stage, const Machine& machine) {
  std::vector<LayerWork> layers = stage.layers;
  for (LayerWork& layer : layers) layer.attention[W] = layer.experts[W] = {};
  return with_rest(predict_pair({}, layers, machine), machine.seconds(stage.rest[B]));
}

ChunkTime backward_weight_alone(const StageWork& stage, const Machine& machine) {
  double seconds = machine.seconds(stage.rest[W]);
  for (const LayerWork& layer : stage.layers)
    seconds += machine.seconds(layer.attention[W]) + machine.seconds(layer.experts[W]);
  return {seconds, seconds, 0};
}

ChunkTime overlapped_pair(const StageWork& forward, const StageWork& backward, const Machine& machine) {
  return with_rest(predict_pair(forward.layers, backward.layers, machine),
                   machine.seconds(forward.rest[F]) + machine.seconds(backward.rest[B]) +
                       machine.seconds(backward.rest[W]));
}

}  // namespace moray::plan
