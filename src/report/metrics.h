// What a training run records of itself: runs/NAME/metrics.jsonl, one JSON object a step, and
// expert_load.jsonl, the load of every expert at intervals. Both files hold each step at most once, whatever
// kills happened.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/files.h"
#include "report/append_file.h"

namespace moray {

// What of a tensor class became codes in one step (ops/quantization_counts.h).
struct QuantizedClass {
  std::string name;
  int64_t elements = 0;                 // not 0 before
  double underflow = 0, saturated = 0;  // shares of them
};

struct StepMetrics {
  int64_t step = 0;              // 1 after the first optimizer step
  int64_t tokens = 0;            // trained on so far, this step's included
  double loss = 0;               // nats a token, of the main model
  std::vector<double> mtp_loss;  // nats a token, one a depth
  double balance_loss = 0;
  std::optional<double> validation_loss;  // nats a token, when this step measured it
  std::vector<double> balance;            // one a MoE layer: the greatest expert load over the mean load
  double grad_norm = 0;                   // before clipping
  double learning_rate = 0;
  double tokens_per_second = 0;
  int64_t peak_memory_bytes = 0;
  int64_t skipped_steps = 0;                 // so far in this run: steps whose loss or norm was not finite
  std::vector<QuantizedClass> quantization;  // of FP8 training, when this step counted it

  // [MoE layer][expert]: load over the layer's mean load, 1 when in balance. Goes to expert_load.jsonl alone.
  std::vector<std::vector<double>> expert_load;

  // Appends one MoE layer to `balance` and `expert_load` from the tokens each expert got in the whole batch.
  void add_moe_layer(std::span<const int64_t> tokens_of_expert);
};

struct ExpertLoadRow {
  int64_t step = 0;
  std::vector<std::vector<double>> load;  // as StepMetrics::expert_load
};

// Lines with a number that is no finite one hold null there; it reads back as NaN.
// Reading drops a last line that was cut short; any other bad line throws Error naming file and line.
std::vector<StepMetrics> read_metrics(const fs::path& file);
std::vector<ExpertLoadRow> read_expert_load(const fs::path& file);

// Appends to the two files of a run folder, each step with one write to the system.
class MetricsWriter {
 public:
  // Keeps the lines of the steps up to `resumed_step` (0: a fresh run) and drops all later ones, atomically;
  // lines which cannot be read are dropped too. `total_steps` sets how often expert loads are written: at
  // most kMaxExpertLoadRows times in a run. Throws Error when the folder cannot be written.
  MetricsWriter(const fs::path& run_folder, int64_t resumed_step, int64_t total_steps);

  // Throws Error when the disk refuses.
  void write(const StepMetrics& metrics);

  // Makes all lines durable; to be called before a checkpoint appears, so that a power cut leaves no gap
  // before it.
  void sync();

  static constexpr int64_t kMaxExpertLoadRows = 400;

 private:
  AppendFile metrics_;
  AppendFile expert_load_;
  int64_t expert_load_interval_;
};

}  // namespace moray
