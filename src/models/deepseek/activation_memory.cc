// T rows, D hidden, F intermediate width, H heads, E experts, K experts a token, R = T·K expert rows.
#include "models/deepseek/activation_memory.h"

#include <algorithm>
#include <set>

namespace moray::deepseek {

namespace {

constexpr const char* kNormInputs = "norms: inputs";
constexpr const char* kNormStatistics = "norms: statistics";
constexpr const char* kLinearInputs = "linear layers: inputs";
constexpr const char* kQueriesKeysValues = "attention: queries, keys, values";
constexpr const char* kAttentionOutput = "attention: output";
constexpr const char* kLogSums = "attention: log-sums";
constexpr const char* kRouter = "router";
constexpr const char* kPlan = "dispatch: plan";
constexpr const char* kExpertInputs = "experts: inputs";
constexpr const char* kSwigluInputs = "SwiGLU: inputs";
constexpr const char* kStates = "head: states";

class Sum {
 public:
  void add(const char* kind, int64_t bytes) {
    if (bytes == 0) return;
    const auto at = std::ranges::find(items, kind, &KeptItem::kind);
    if (at == items.end())
      items.push_back({kind, bytes});
    else
      at->bytes += bytes;
  }
  KeptItems items;
};

// Bytes of what layers keep, by precision.
class Forms {
 public:
  Forms(const Precision& precision, int64_t rows) : precision_(precision), rows_(rows) {}

  int64_t plain(int64_t columns, int64_t times = 1) const {
    return rows_ * times * columns * static_cast<int64_t>(dtype_bytes(precision_.activations()));
  }
  int64_t words(int64_t columns) const { return rows_ * columns * 4; }  // f32 and i32
  // As `form` in FP8 recipes, else as activations.
  int64_t kept(CodeForm form, int64_t columns, int64_t times = 1) const {
    if (!precision_.when_fp8(form)) return plain(columns, times);
    const int64_t codes = *form == CodeFormat::f12_e5m6 ? (3 * columns + 1) / 2 : columns;
    return rows_ * times * (codes + (columns + kTile - 1) / kTile * 4);
  }
  int64_t linear_input(int64_t columns, int64_t times = 1) const {
    return kept(precision_.linear_inputs, columns, times);
  }

 private:
  const Precision& precision_;
  int64_t rows_;
};

void add_norm(const Forms& forms, int64_t width, Sum& sum) {
  sum.add(kNormInputs, forms.plain(width));
  sum.add(kNormStatistics, forms.words(1));
}

void add_attention(const ModelConfig& config, const Precision& block_precision, int64_t rows, Sum& sum) {
  const Precision precision = block_precision.of(Part::self_attn);
  const Forms forms(precision, rows);
  const MlaShape shape = config.mla();
  const bool q_lora = config.q_lora_rank > 0;
  add_norm(forms, config.hidden_size, sum);
  if (q_lora) add_norm(forms, config.q_lora_rank, sum);
  add_norm(forms, config.kv_lora_rank, sum);
  if (!precision.recompute_norms)
    for (const int64_t width : {config.hidden_size, config.q_lora_rank, config.kv_lora_rank})
      sum.add(kLinearInputs, forms.linear_input(width));
  if (!precision.recompute_mla_up || !q_lora) sum.add(kQueriesKeysValues, forms.plain(shape.q_width()));
  if (!precision.recompute_mla_up) sum.add(kQueriesKeysValues, forms.plain(shape.kv_width()));
  sum.add(kQueriesKeysValues, forms.plain(shape.qk_rope_head_dim));
  sum.add(kAttentionOutput, forms.kept(precision.attention_output, shape.o_width()));
  sum.add(kLogSums, forms.words(shape.heads));
}

void add_swiglu(int64_t width, const Precision& precision, const Forms& forms, int64_t times, Sum& sum) {
  sum.add(kSwigluInputs, 2 * forms.kept(precision.swiglu_inputs, width, times));
}

void add_moe(const ModelConfig& config, const Precision& precision, const Forms& forms,
             const SampleRows& rows, Sum& sum) {
  const int64_t K = config.num_experts_per_tok, E = config.n_routed_experts;
  if (!precision.recompute_norms) sum.add(kRouter, forms.plain(config.hidden_size));
  sum.add(kRouter, forms.words(E + 2 * K) + rows.samples * E * 4);  // scores, ids, gates; fractions
  sum.add(kPlan, forms.words(3 * K) + (E * rows.samples + 1) * 4);
  const bool sent_as_codes = precision.when_fp8(precision.dispatch).has_value();
  const Precision of_experts = precision.of(Part::experts);
  const Forms experts_forms(of_experts, rows.rows());
  sum.add(kExpertInputs, sent_as_codes ? forms.kept(precision.dispatch, config.hidden_size, K)
                                       : experts_forms.linear_input(config.hidden_size, K));
  add_swiglu(config.moe_intermediate_size, of_experts, experts_forms, K, sum);
}

// Counts every piece of memory once.
class Counter {
 public:
  void add(const char* kind, const Tensor& tensor) {
    if (tensor.defined() && seen_.insert(tensor.raw()).second)
      sum.add(kind, static_cast<int64_t>(tensor.bytes()));
  }
  void add(const char* kind, const Activation& kept) {
    add(kind, kept.values);
    add(kind, kept.codes.codes);
    add(kind, kept.codes.scales);
  }
  void add(const RmsNorm::Saved& norm) {
    add(kNormInputs, norm.x_TD);
    add(kNormStatistics, norm.rstd_T);
  }
  Sum sum;

 private:
  std::set<const std::byte*> seen_;
};

}  // namespace

int64_t total_bytes(const KeptItems& items) {
  int64_t total = 0;
  for (const KeptItem& item : items) total += item.bytes;
  return total;
}

KeptItems kept_by_block(const ModelConfig& config, bool moe, const Precision& precision,
                        const SampleRows& rows) {
  const Forms forms(precision, rows.rows());
  const bool has_mlp = !moe || config.n_shared_experts > 0;
  Sum sum;
  add_attention(config, precision, rows.rows(), sum);
  add_norm(forms, config.hidden_size, sum);
  if (moe) add_moe(config, precision, forms, rows, sum);
  if (!has_mlp) return sum.items;
  const Precision of_mlp = precision.of(moe ? Part::shared_experts : Part::mlp);
  const Forms mlp_forms(of_mlp, rows.rows());
  // Without codes the router's input is the shared experts' too.
  const bool shared_with_router = moe && !of_mlp.when_fp8(of_mlp.linear_inputs);
  if (!precision.recompute_norms && !shared_with_router)
    sum.add(kLinearInputs, mlp_forms.linear_input(config.hidden_size));
  const int64_t width =
      moe ? config.n_shared_experts * config.moe_intermediate_size : config.intermediate_size;
  add_swiglu(width, of_mlp, mlp_forms, 1, sum);
  return sum.items;
}

KeptItems kept_by_mtp(const ModelConfig& config, const Precision& precision, const SampleRows& rows) {
  const Forms forms(precision, rows.rows());
  Sum sum;
  for (int norm = 0; norm < 3; ++norm) add_norm(forms, config.hidden_size, sum);
  const Precision of_eh_proj = precision.of(Part::eh_proj);
  if (!precision.recompute_norms)
    sum.add(kLinearInputs, Forms(of_eh_proj, rows.rows()).linear_input(2 * config.hidden_size));
  return sum.items;
}

KeptItems kept_by_head(const ModelConfig& config, const Precision& precision, const SampleRows& rows) {
  const Forms forms(precision, rows.rows());
  Sum sum;
  add_norm(forms, config.hidden_size, sum);
  sum.add(kStates, forms.plain(config.hidden_size));
  return sum.items;
}

int64_t kept_by_model(const ModelConfig& config, const Precision& precision, const SampleRows& rows) {
  const int64_t dense = std::min(config.first_k_dense_replace, config.num_hidden_layers),
                depths = config.num_nextn_predict_layers, moe = config.num_hidden_layers - dense + depths;
  return dense * total_bytes(kept_by_block(config, false, precision, rows)) +
         moe * total_bytes(kept_by_block(config, true, precision, rows)) +
         depths * total_bytes(kept_by_mtp(config, precision, rows)) +
         total_bytes(kept_by_head(config, precision, rows));
}

KeptItems count_kept(const Block::Saved& saved) {
  Counter counter;
  const Mla::Saved& mla = saved.self_attn;
  counter.add(saved.input_layernorm);
  counter.add(mla.q_a_layernorm);
  counter.add(mla.kv_a_layernorm);
  for (const Linear::Saved* linear :
       {&mla.q_proj, &mla.q_a_proj, &mla.q_b_proj, &mla.kv_a_proj, &mla.kv_b_proj})
    counter.add(kLinearInputs, linear->x);
  for (const Tensor* tensor : {&mla.q, &mla.kv, &mla.k_rope}) counter.add(kQueriesKeysValues, *tensor);
  counter.add(kAttentionOutput, mla.o);
  counter.add(kLogSums, mla.lse_HT);
  counter.add(saved.post_attention_layernorm);
  const Router::Saved& gate = saved.gate;
  for (const Tensor* tensor : {&gate.x_TD, &gate.scores_TE, &gate.ids_TK, &gate.gates_TK, &gate.fraction_SE})
    counter.add(kRouter, *tensor);
  const DispatchPlan& plan = saved.plan;
  for (const Tensor* tensor : {&plan.rows.offsets_ES, &plan.token_R, &plan.choice_R, &plan.row_TK})
    counter.add(kPlan, *tensor);
  counter.add(kExpertInputs, saved.experts.x);
  for (const Activation* kept : {&saved.experts.gate, &saved.experts.up}) counter.add(kSwigluInputs, *kept);
  for (const Linear::Saved* linear : {&saved.mlp.gate_proj, &saved.mlp.up_proj})
    counter.add(kLinearInputs, linear->x);
  for (const Activation* kept : {&saved.mlp.gate, &saved.mlp.up}) counter.add(kSwigluInputs, *kept);
  return counter.sum.items;
}

}  // namespace moray::deepseek
