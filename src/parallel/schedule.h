// Pipeline schedules as data: what each rank does, in order, sends and receives included. Pure functions of
// (rank, ranks, micro_batches), so that an executor runs the vector unchanged, a simulator prices it
// (timeline.h), a test model-checks it (check.h) and a user looks at it (print.h).
//
// Terms. A model is cut in `stages`; a rank holds one or two of them, its `chunks`. A micro-batch visits the
// stages in order going forward (F) and in reverse going back (B). B may be split in the gradient of the
// inputs, which the stage before waits for, and the gradient of the weights (W), which nobody waits for.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moray {

enum class StepKind : uint8_t {
  kForward,         // F
  kBackward,        // B, whole: gradients of inputs and of weights
  kBackwardInput,   // B, split: gradient of inputs only; a kBackwardWeight of the same micro-batch follows
                    // later
  kBackwardWeight,  // W: what a kBackwardInput left
  kPair,            // F&B: a forward and a whole backward chunk of different micro-batches, overlapped
  kSendActivation,
  kReceiveActivation,
  kSendGradient,
  kReceiveGradient,
};

// One step of one rank. For sends and receives `chunk` is the chunk of this rank whose output or input moves,
// and `peer` the other rank.
struct Step {
  StepKind kind = StepKind::kForward;
  int32_t micro_batch = 0;            // 0 ≤ micro_batch < micro_batches; of a pair: the one going forward
  int32_t chunk = 0;                  // which of this rank's stages; of a pair: the one going forward
  int32_t backward_micro_batch = -1;  // of a pair: the one going back
  int32_t backward_chunk = -1;        // of a pair
  int32_t peer = -1;                  // of a send or receive

  bool operator==(const Step&) const = default;
};

inline bool is_send(const Step& step) {
  return step.kind == StepKind::kSendActivation || step.kind == StepKind::kSendGradient;
}
inline bool is_receive(const Step& step) {
  return step.kind == StepKind::kReceiveActivation || step.kind == StepKind::kReceiveGradient;
}
inline bool is_compute(const Step& step) {
  return !is_send(step) && !is_receive(step);
}

// "F 3", "B 3", "Bi 3" (inputs only), "W 3", "F 4 & B 2", "send activation 3 to 1", ...; a chunk other than 0
// is shown as "F 3'", with a prime.
std::string step_name(const Step& step);

enum class ScheduleKind : uint8_t { kOneFOneB, kZb1p, kDualPipe, kDualPipeV };

std::string_view schedule_name(ScheduleKind kind);            // "1f1b", "zb1p", "dualpipe", "dualpipev"
ScheduleKind schedule_kind_from_name(std::string_view name);  // Error listing the names for any other

// The steps of one rank. Consecutive sends and receives form a batch, posted together and waited for
// together; run so, the schedules need no buffers at all. Run one by one they need one buffer a peer,
// direction and kind (check.h). Error for arguments outside the limits given with each.

// One forward, one backward in turn, after min(ranks − 1 − rank, micro_batches) forwards. Any ranks ≥ 1,
// micro_batches ≥ 1.
std::vector<Step> one_f_one_b(int rank, int ranks, int micro_batches);

// 1F1B with every B split; rank r runs W of a micro-batch r backwards later, which keeps the peak of 1F1B's
// first rank and fills the end's bubble (ZB-H1). Any ranks ≥ 1, micro_batches ≥ 1.
std::vector<Step> zb1p(int rank, int ranks, int micro_batches);

// DualPipe: micro-batches 0 … M/2−1 enter at rank 0 (direction 0 = chunk 0, stage = rank) and M/2 … M−1 at
// the last rank (direction 1 = chunk 1, stage = ranks − 1 − rank). ranks even; micro_batches even, ≥ 2·ranks.
std::vector<Step> dual_pipe(int rank, int ranks, int micro_batches);

// DualPipeV: 2·ranks stages folded to a V: chunk 0 is stage `rank`, chunk 1 stage 2·ranks − 1 − rank; all
// micro-batches enter at rank 0 and leave there. Any ranks ≥ 1, micro_batches ≥ 2·ranks.
std::vector<Step> dual_pipe_v(int rank, int ranks, int micro_batches);

// A schedule of all ranks.
struct Schedule {
  ScheduleKind kind = ScheduleKind::kOneFOneB;
  int ranks = 0;
  int micro_batches = 0;                 // counting both directions
  std::vector<std::vector<Step>> steps;  // [rank]
};
Schedule make_schedule(ScheduleKind kind, int ranks, int micro_batches);

// Throws the Error make_schedule would throw for these arguments, without building anything.
void check_schedule_arguments(ScheduleKind kind, int ranks, int micro_batches);

// Where things are. Stages: ranks, or 2·ranks for DualPipeV; DualPipe holds each stage on two ranks.
int stage_count(ScheduleKind kind, int ranks);
int chunks_per_rank(ScheduleKind kind);                           // 1 or 2
int stage_of(ScheduleKind kind, int rank, int chunk, int ranks);  // 0 ≤ stage < stage_count

// The rank that holds the stage after (before) this chunk's, for this chunk's micro-batches: `rank` itself at
// the turn of DualPipeV, where nothing is sent, and -1 when there is no such stage.
int rank_after(ScheduleKind kind, int rank, int chunk, int ranks);
int rank_before(ScheduleKind kind, int rank, int chunk, int ranks);

// Whether the micro-batch passes through this chunk of a rank (in DualPipe, half of them do).
bool visits(const Schedule& schedule, int micro_batch, int chunk);

}  // namespace moray
