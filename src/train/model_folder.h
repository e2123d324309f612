// A model as a Hugging Face folder: config.json, safetensors, tokenizer files.
#pragma once

#include "checkpoint/safetensors.h"
#include "models/deepseek/model.h"

namespace moray {

// config.json of a folder.
deepseek::ModelConfig read_model_config(const fs::path& folder);

// Fills the model's weights; FP8 ones are dequantized. Throws Error naming the first tensor that is missing,
// extra or of another shape. Known extras are passed over: rotary_emb.inv_freq and the MTP layers' copies of
// embedding and head.
void read_weights(const SafetensorsFolder& weights, deepseek::Model& model);

deepseek::Model load_model(const Exec&, const fs::path& folder);

}  // namespace moray
