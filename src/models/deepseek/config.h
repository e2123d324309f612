// The shape of a DeepSeek-family model, under the keys of Hugging Face's config.json (facts §1, serving §1).
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/config.h"
#include "nn/rope_table.h"
#include "ops/mla_attention.h"
#include "ops/route.h"

namespace moray::deepseek {

struct ModelConfig {
  int64_t vocab_size = 0, hidden_size = 0, num_hidden_layers = 0;
  int64_t first_k_dense_replace = 0;  // the first layers have a dense MLP
  int64_t intermediate_size = 0;      // of dense MLPs
  int64_t moe_intermediate_size = 0;  // of one expert
  int64_t n_routed_experts = 0, num_experts_per_tok = 0, n_shared_experts = 0;
  int64_t n_group = 1, topk_group = 1;
  ScoringFunc scoring_func = ScoringFunc::sigmoid;
  bool norm_topk_prob = true;
  double routed_scaling_factor = 1;
  int64_t num_attention_heads = 0;
  int64_t q_lora_rank = 0;  // 0: null, queries straight from the hidden state
  int64_t kv_lora_rank = 0, qk_nope_head_dim = 0, qk_rope_head_dim = 0, v_head_dim = 0;
  double rope_theta = 10000;
  std::optional<YarnConfig> rope_scaling;
  double rms_norm_eps = 1e-6;
  int64_t max_position_embeddings = 4096;
  int64_t num_nextn_predict_layers = 0;  // depths of multi-token prediction
  double initializer_range = 0.006;

  // Sigmoid scoring marks the V3 family: balance bias, group score of the two best. Softmax: V2.
  bool is_v3() const { return scoring_func == ScoringFunc::sigmoid; }
  bool is_moe_layer(int64_t layer) const { return layer >= first_k_dense_replace; }
  RouterConfig router() const;
  MlaShape mla() const;

  // Throws Error for impossible shapes, naming the key and the value.
  void validate() const;

  // The [model] section of a recipe.
  static ModelConfig from_recipe(Config& recipe);
  // A Hugging Face config.json; `source` names it in errors.
  static ModelConfig from_json(const std::string& text, const std::string& source);
  // config.json with the keys other programs expect; `torch_dtype` "float32" or "bfloat16".
  std::string to_json(const std::string& torch_dtype, int64_t bos_token_id, int64_t eos_token_id) const;
};

// Numbers of parameters. The MTP modules' own are counted apart; they share embedding and head.
struct ParameterCounts {
  int64_t total = 0;   // main model
  int64_t active = 0;  // used for one token: shared and chosen experts, embedding and head included
  int64_t active_matmul =
      0;            // of those, what a token is multiplied with (no embedding, no norms), head included
  int64_t mtp = 0;  // unique to the MTP modules
};
ParameterCounts count_parameters(const ModelConfig&);

}  // namespace moray::deepseek
