// Multi-token prediction (report §2.2): depth k predicts the token k + 1 ahead from the state of depth k − 1
// and the embedding of the token k ahead, with one block of its own and the main model's embedding and head.
//
// T rows, D hidden.
#pragma once

#include "models/deepseek/block.h"

namespace moray::deepseek {

struct MtpModule {
  RmsNorm enorm, hnorm;  // of the embedding and of the incoming state
  Linear eh_proj;        // [D, 2·D]; the embedding half comes first (the weights decide, not the report)
  Block block;
  RmsNorm shared_head_norm;

  struct Saved {
    RmsNorm::Saved enorm, hnorm, shared_head_norm;
    Linear::Saved eh_proj;
    Block::Saved block;
  };
  struct Deferred {
    RmsNorm::Deferred enorm, hnorm, shared_head_norm;
    Linear::Deferred eh_proj;
    Block::Deferred block;
  };

  // h_TD: the main model's state after its final norm, or the state after the previous depth's
  // shared_head_norm. Returns the state after this depth's shared_head_norm, ready for the head.
  Tensor forward(Exec&, const Tensor& h_TD, const Tensor& embedding_TD, const LayerContext&, Saved&,
                 RoutingStats&) const;
  // Adds the gradient of h to dh_TD and returns that of the embedding.
  Tensor backward_input(Exec&, const Tensor& dout_TD, const LayerContext&, double balance_coefficient,
                        Saved&&, Deferred&, const Tensor& dh_TD) const;
  void backward_weight(Exec&, const LayerContext&, Deferred&&, MtpModule& gradient) const;
  void visit(const std::string& prefix, const ParameterVisitor&);
  void visit_products(const ProductWeightVisitor&);
  void set_precision(const Precision&);
};

}  // namespace moray::deepseek
