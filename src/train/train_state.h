// A trainer's whole state as a checkpoint, and back.
#pragma once

#include "checkpoint/checkpoint.h"
#include "train/trainer.h"

namespace moray {

struct SaveOptions {
  DType model_dtype = DType::f32;                // f8_e4m3: FP8 in the published layout
  ScaleFormat model_scales = ScaleFormat::fp32;  // of FP8
  std::string recipe_toml;                       // the resolved recipe, kept for the reader's sake
  std::vector<fs::path> tokenizer_files;         // copied into model/
  int64_t bos_token_id = 0, eos_token_id = 0;
};

// What a checkpoint of the trainer holds: model/ with the weights (narrowed to model_dtype; then state/ has
// FP32 master weights), state/ with moments, average, counters. Tensors are the trainer's own, to be written
// or copied before the next step; FP8 codes and scales are new ones. Throws Error naming a weight that is not
// finite, which FP8 cannot hold.
CheckpointContent training_content(Trainer&, const SaveOptions&);

// Puts the trainer where the checkpoint left off. Throws Error when shapes differ.
void restore_training(Trainer&, const Checkpoint&);

}  // namespace moray
