// A training recipe: what to train, on what, how long. All of it comes from one TOML file; a run keeps the
// resolved form.
#pragma once

#include <string>

#include "models/deepseek/config.h"
#include "tensor/quantized.h"
#include "train/optimizer.h"
#include "train/schedule.h"

namespace moray {

struct TrainConfig {
  Precision precision;
  uint64_t seed = 1;
  bool perturb_initial_weights = false;  // by one unit in the last place: how far do equal runs drift apart
  int64_t tokens = 0;                    // the budget; training ends with the step that reaches it
  int64_t sequence_length = 512;
  Schedule batch_size{8};          // samples a step
  int64_t batch_multiple = 1;      // ramped batch sizes are rounded down to a multiple of this
  int64_t micro_batch = 4;         // samples that pass through the model at once; no result depends on it
  int64_t gradient_groups = 1;     // docs/numerics.md: the most data ranks this run shall ever be spread over
  bool isolate_documents = false;  // packed documents cannot see each other
  Schedule learning_rate{1e-3};
  Schedule mtp_loss_weight{0.3};              // λ
  Schedule balance_bias_update_speed{0.001};  // γ
  double balance_loss_alpha = 1e-4;           // α of the sequence-wise loss
  OptimizerConfig optimizer;
  double ema_decay = 0;       // 0: no moving average of the weights
  int64_t max_bad_steps = 5;  // stop after so many steps in a row whose loss or norm is not finite
};

// What happens to documents before they are packed; `moray data build` applies it, a run checks that its
// dataset has it.
struct DataConfig {
  std::string dataset;              // folder made by `moray data build`
  double fim_rate = 0.1;            // share of documents in fill-in-the-middle form
  double newline_split_rate = 0.1;  // share of joined punctuation-and-line-break tokens that are split
};

struct RunConfig {
  int64_t validation_interval_steps = 0;  // 0: only at the end
  // Of FP8 training: in the metrics, what share of each tensor class underflows and saturates. 0: never
  int64_t quantization_interval_steps = 0;
  int64_t validation_tokens = 65536;      // of the held-out split, in windows spread evenly over it
  int64_t checkpoint_interval_steps = 0;  // 0: only at the end
  int64_t keep_last = 2;                  // checkpoints
  // Of model/ in checkpoints; state/ keeps FP32 master weights if it is narrower. f8_e4m3: block-scaled FP8
  // in the published layout (checkpoint/fp8_weights.h), the rest in bf16.
  DType model_dtype = DType::f32;
  ScaleFormat model_scales = ScaleFormat::fp32;  // of FP8
};

struct Recipe {
  deepseek::ModelConfig model;
  DataConfig data;
  TrainConfig train;
  RunConfig run;

  // Reads every key, rejects unknown ones and impossible values.
  static Recipe from_config(Config& config);
};

}  // namespace moray
