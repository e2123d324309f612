// One micro-batch through the model and back: losses, gradients, and what the routers saw.
//
// T rows, S samples, L sequence length.
#pragma once

#include "models/deepseek/model.h"

namespace moray::deepseek {

// Samples of L + 1 + depths tokens each, as shifted inputs and targets: shifted_T[j] holds tokens j .. j + L
// of every sample. Depth d (0: the main model) embeds shifted[d] and predicts shifted[d + 1].
struct MicroBatch {
  SampleRows rows;
  std::vector<Tensor> shifted_T;  // 2 + depths tensors, i32 [S·L]
  Tensor document_starts_T;       // i32 [S·L], undefined without isolation of packed documents
};

// What each term of the loss is multiplied with. All are known before the first forward pass.
struct LossScales {
  double main = 0;     // 1 / target tokens of the global batch
  double mtp = 0;      // λ / depths / target tokens of the global batch
  double balance = 0;  // α / samples of the global batch
};

// Sums over the micro-batches of one batch, in order.
struct BatchStats {
  std::vector<double> loss_sums;      // main, then one a depth; plain sums of token losses
  std::vector<RoutingStats> routing;  // one a MoE layer, the MTP modules' last
  int64_t kept_bytes = 0;  // the most that a micro-batch's forward pass has left to its backward pass
};
BatchStats make_batch_stats(const ModelConfig&);

// F, B and W of everything, in order. Adds to gradients and stats.
void forward_backward(Exec&, const Model&, const MicroBatch&, const LossScales&, const RopeTable&,
                      Model& gradients, BatchStats&);

// Losses alone; adds to stats.
void forward_loss(Exec&, const Model&, const MicroBatch&, const RopeTable&, BatchStats&);

}  // namespace moray::deepseek
