// What of a Hugging Face folder becomes the weights to serve, settled and checked before a byte of data is
// read.
#pragma once

#include <set>

#include "checkpoint/safetensors.h"
#include "models/deepseek/model.h"

namespace moray {

// A tensor of the model tree and the stored tensors it is read from, experts one by one.
struct PlannedTensor {
  std::string name;  // Hugging Face's, "{}" for the expert
  Shape shape;
  DType dtype =
      DType::f32;         // norms, routers and biases are f32, all else as stored; u8: 4 bits, rows of bytes
  bool is_scale = false;  // of the FP8 or integer tensor planned before it
  int64_t experts = 0;    // 0: one tensor
  bool is_small = false;  // a norm, router or bias: read as f32, looked at for numbers that are not finite
  bool scales_integers = false;  // a scale of integers, not of FP8

  std::string stored_name(int64_t expert) const;
  size_t bytes() const { return static_cast<size_t>(shape.elements()) * dtype_bytes(dtype); }
};

struct WeightPlan {
  deepseek::ModelConfig config;        // without MTP modules unless they are asked for
  std::vector<PlannedTensor> tensors;  // in the order of Model::visit, each of codes followed by its scales
  size_t bytes() const;
};

// Throws Error naming the tensors that are missing, extra, of a wrong shape or of a type that cannot be
// served. MTP modules (and their copies of embedding and head) are left out unless `with_mtp`.
WeightPlan plan_weights(const SafetensorsFolder& folder, const deepseek::ModelConfig& config, bool with_mtp);

// The same without MTP modules of unquantized weights that are not all there yet, as far as it can be told.
// Both throw Error: the first, beginning with `where`, for names of an index that lack parts of the model or
// belong to none; the second for tensors of one shard that belong to none or have another shape.
void expect_tensor_names(const std::set<std::string>& names, const deepseek::ModelConfig& config,
                         const std::string& where);
void expect_tensors_of_model(const SafetensorsFile& shard, const deepseek::ModelConfig& config);

}  // namespace moray
