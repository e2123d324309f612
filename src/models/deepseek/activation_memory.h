// Activation memory: what each kind of layer keeps from its forward pass for its backward pass.
#pragma once

#include "models/deepseek/mtp.h"

namespace moray::deepseek {

// One kind of thing that is kept, for all rows of a micro-batch together.
struct KeptItem {
  std::string kind;
  int64_t bytes = 0;

  bool operator==(const KeptItem&) const = default;
};
using KeptItems = std::vector<KeptItem>;
int64_t total_bytes(const KeptItems& items);

// What a block keeps of a micro-batch of `rows`, from shapes and precision alone; items of no bytes are left
// out.
KeptItems kept_by_block(const ModelConfig&, bool moe, const Precision&, const SampleRows& rows);
// An MTP module without its block: its norms and projection. The first one's hnorm keeps the states of the
// main model, each other's those of the module before.
KeptItems kept_by_mtp(const ModelConfig&, const Precision&, const SampleRows& rows);

// The final norm, and the states that the losses are computed from once all layers are done.
KeptItems kept_by_head(const ModelConfig&, const Precision&, const SampleRows& rows);
// Bytes of all layers, MTP modules and the head together: what the whole forward pass leaves.
int64_t kept_by_model(const ModelConfig&, const Precision&, const SampleRows& rows);

// What a block has kept, counted: each piece of memory once, under the kind it is met first.
KeptItems count_kept(const Block::Saved& saved);

}  // namespace moray::deepseek
