// Legend: D hidden, H heads, I inner width of an expert, V vocabulary, k experts a token.
#include "plan/inference_costs.h"

#include <algorithm>

namespace moray::plan {

namespace {
constexpr size_t F = static_cast<size_t>(Pass::forward);
constexpr double kFp8Row = 1 + 4.0 / 128;  // bytes a number sent in FP8, scale included
constexpr double kBf16 = 2;

struct Shape {
  double D, H, I, dense_I, q_rank, kv_rank, nope, rope, v, k, shared;

  explicit Shape(const deepseek::ModelConfig& m)
      : D(static_cast<double>(m.hidden_size)),
        H(static_cast<double>(m.num_attention_heads)),
        I(static_cast<double>(m.moe_intermediate_size)),
        dense_I(static_cast<double>(m.intermediate_size)),
        q_rank(static_cast<double>(m.q_lora_rank)),
        kv_rank(static_cast<double>(m.kv_lora_rank)),
        nope(static_cast<double>(m.qk_nope_head_dim)),
        rope(static_cast<double>(m.qk_rope_head_dim)),
        v(static_cast<double>(m.v_head_dim)),
        k(static_cast<double>(m.num_experts_per_tok)),
        shared(static_cast<double>(m.n_shared_experts)) {}

  double queries() const {
    return q_rank > 0 ? D * q_rank + q_rank * H * (nope + rope) : D * H * (nope + rope);
  }
  double kv_up() const { return kv_rank * H * (nope + v); }
  double attention_parameters() const { return queries() + D * (kv_rank + rope) + kv_up() + H * v * D; }
  double expert_parameters() const { return 3 * D * I; }
  double latent() const { return kv_rank + rope; }
};

double& at(PhaseSeconds& seconds, BlockPhase phase) {
  return seconds[static_cast<size_t>(phase)];
}

// A GEMM on few rows: bound by reading FP8 weights or by multiplying.
double weights_seconds(const Machine& machine, const ServingRates& serving, double parameters, double rows,
                       KernelClass kernel_class) {
  const double reading = parameters / (machine.cluster.memory_bandwidth.value * serving.weight_streaming);
  return std::max(reading, 2 * rows * parameters / machine.units_a_second(kernel_class));
}

// Gathering rows before attention and scattering sums after it, within the node.
double tensor_seconds(const Shape& s, const Deployment& d, const Machine& machine, double rows) {
  if (d.tensor == 1) return 0;
  const double bytes = kBf16 * s.D * rows * static_cast<double>(d.tensor - 1);
  return 2 * machine.seconds(Traffic{0, bytes});
}

double gaps(const ServingRates& serving) {
  return serving.kernels_a_layer / 2 * serving.launch_gap_seconds;
}

// Attention of one query row a request (more with drafts) in the latent space: every head reads the same
// latents, so a request's cache is read once on each tensor rank.
double decode_attention(const Shape& s, const Deployment& d, const Machine& machine,
                        const ServingRates& serving, double requests) {
  const double tensor = static_cast<double>(d.tensor), context = static_cast<double>(d.context);
  const double held = requests * d.attention_imbalance * tensor;
  const double rows = held * static_cast<double>(1 + d.drafts);
  const double reading = held * context * s.latent() * static_cast<double>(d.cache_bytes) /
                         (machine.cluster.memory_bandwidth.value * serving.cache_streaming);
  const double flops = 2 * rows * s.H / tensor * context * (2 * s.kv_rank + s.rope);
  const double multiplying = flops / (machine.cluster.flops_bf16.value * serving.decode_attention);
  return std::max(reading, multiplying) +
         weights_seconds(machine, serving, s.attention_parameters() / tensor, rows,
                         KernelClass::gemm_dense_fp8) +
         tensor_seconds(s, d, machine, requests * static_cast<double>(1 + d.drafts)) + gaps(serving);
}

// Point to point: a row goes to each of its experts' GPUs.
double decode_exchange(const Shape& s, const Deployment& d, const Machine& machine,
                       const ServingRates& serving, double rows, double bytes_a_number) {
  const double gpus = static_cast<double>(d.gpus), node = std::min(gpus, machine.cluster.gpus_per_node.value);
  const double copies = s.k + (d.shared_everywhere ? 0 : s.shared);
  const double bytes = rows * copies * s.D * bytes_a_number * d.expert_imbalance;
  const double network = bytes * (gpus - node) / gpus, inside = bytes * (node - 1) / gpus;
  return serving.message_seconds +
         std::max(network / (machine.cluster.network_bandwidth.value * serving.point_to_point),
                  inside / (machine.cluster.node_bandwidth.value * machine.rates.node_efficiency));
}

double decode_experts(const deepseek::ModelConfig& model, const Shape& s, const Deployment& d,
                      const Machine& machine, const ServingRates& serving, double rows) {
  const double slots = static_cast<double>(expert_slots(model, d)) / static_cast<double>(d.gpus);
  const double copies = s.k + (d.shared_everywhere ? 0 : s.shared);
  // Every expert held is read; each sees its share of the rows.
  double seconds = weights_seconds(machine, serving, slots * s.expert_parameters(),
                                   rows * copies * d.expert_imbalance / slots, KernelClass::gemm_grouped_fp8);
  if (d.shared_everywhere)
    seconds += weights_seconds(machine, serving, s.shared * s.expert_parameters(), rows,
                               KernelClass::gemm_dense_fp8);
  return seconds + gaps(serving);
}

double weight_bytes(const deepseek::ModelConfig& model, const Deployment& d) {
  const Shape s(model);
  const double layers = static_cast<double>(model.num_hidden_layers + (d.drafts > 0 ? 1 : 0));
  const double dense = static_cast<double>(std::min(model.first_k_dense_replace, model.num_hidden_layers));
  const double slots = static_cast<double>(expert_slots(model, d)) / static_cast<double>(d.gpus) +
                       (d.shared_everywhere ? s.shared : 0);
  return layers * s.attention_parameters() / static_cast<double>(d.tensor) + dense * 3 * s.D * s.dense_I +
         (layers - dense) * slots * s.expert_parameters() +
         2 * kBf16 * static_cast<double>(model.vocab_size) * s.D;
}

// Rows as they arrive from all other GPUs at worst, in BF16, twice; and what the framework takes.
double buffer_bytes(const deepseek::ModelConfig& model, double rows) {
  constexpr double kFramework = 3e9;
  return 2 * kBf16 *
             static_cast<double>(model.hidden_size * std::max<int64_t>(1, model.num_experts_per_tok)) * rows +
         kFramework;
}

double cache_bytes_a_token(const deepseek::ModelConfig& model, const Deployment& d) {
  return Shape(model).latent() * static_cast<double>(d.cache_bytes * model.num_hidden_layers);
}
}  // namespace

int64_t expert_slots(const deepseek::ModelConfig& model, const Deployment& d) {
  return model.n_routed_experts + d.redundant_experts;
}

PhaseSeconds prefill_phases(const deepseek::ModelConfig& model, const Deployment& d, const Machine& machine,
                            const ServingRates& serving, double rows, bool is_moe) {
  const Shape s(model);
  Layout layout;
  layout.expert = layout.data = d.gpus;
  layout.tensor = d.tensor;
  layout.sequence_parallel = d.sequence_parallel;
  // phases.h counts sequences of one length; the causal core is set below.
  layout.sequence_length = static_cast<int64_t>(rows) * d.tensor;
  LayerWork layer =
      layer_work(model, layout, machine.cluster, is_moe, Imbalance{d.expert_imbalance, d.expert_imbalance});
  const double hits = d.cache_hits, context = static_cast<double>(d.context);
  Work& attention = layer.attention[F];
  // Cached tokens come first: the others attend to them and to half of themselves, and their latents are
  // multiplied up once more.
  attention[KernelClass::attention_forward] =
      2 * rows * s.H * context * (hits + (1 - hits) / 2) * (s.nope + s.rope + s.v);
  attention[KernelClass::gemm_dense_fp8] +=
      2 * rows * hits / (1 - hits) * s.kv_up() / static_cast<double>(d.tensor);

  PhaseSeconds seconds{};
  at(seconds, BlockPhase::kAttention) = machine.seconds(attention) * d.attention_imbalance +
                                        tensor_seconds(s, d, machine, rows) + gaps(serving);
  at(seconds, BlockPhase::kExperts) = machine.seconds(layer.experts[F]) + gaps(serving);
  if (!is_moe) return seconds;
  at(seconds, BlockPhase::kDispatch) = machine.seconds(layer.dispatch[0]) + serving.message_seconds;
  at(seconds, BlockPhase::kCombine) = machine.seconds(layer.combine[0]) + serving.message_seconds;
  return seconds;
}

PhaseSeconds decode_phases(const deepseek::ModelConfig& model, const Deployment& d, const Machine& machine,
                           const ServingRates& serving, double requests, bool is_moe) {
  const Shape s(model);
  const double rows = requests * static_cast<double>(1 + d.drafts);
  PhaseSeconds seconds{};
  at(seconds, BlockPhase::kAttention) = decode_attention(s, d, machine, serving, requests);
  if (!is_moe) {
    at(seconds, BlockPhase::kExperts) =
        weights_seconds(machine, serving, 3 * s.D * s.dense_I, rows, KernelClass::gemm_dense_fp8) +
        gaps(serving);
    return seconds;
  }
  at(seconds, BlockPhase::kExperts) = decode_experts(model, s, d, machine, serving, rows);
  at(seconds, BlockPhase::kDispatch) = decode_exchange(s, d, machine, serving, rows, kFp8Row);
  at(seconds, BlockPhase::kCombine) = decode_exchange(s, d, machine, serving, rows, kBf16);
  return seconds;
}

double layers_seconds(const deepseek::ModelConfig& model, const Deployment& d,
                      std::vector<OverlapSlot> (*overlap)(int), const PhaseSeconds& moe,
                      const PhaseSeconds& dense) {
  const auto sum = [](const PhaseSeconds& seconds) {
    double total = 0;
    for (const double phase : seconds) total += phase;
    return total;
  };
  const int64_t dense_layers = model.n_routed_experts > 0
                                   ? std::min(model.first_k_dense_replace, model.num_hidden_layers)
                                   : model.num_hidden_layers;
  const int64_t moe_layers = model.num_hidden_layers - dense_layers;
  const double copies = d.two_micro_batches ? 2 : 1;
  double total = static_cast<double>(dense_layers) * copies * sum(dense);
  if (moe_layers == 0) return total;
  if (!d.two_micro_batches) return total + static_cast<double>(moe_layers) * sum(moe);
  return total + overlap_makespan(overlap(static_cast<int>(moe_layers)), moe);
}

double head_seconds(const deepseek::ModelConfig& model, const Machine& machine, const ServingRates& serving) {
  return kBf16 * static_cast<double>(model.vocab_size) * static_cast<double>(model.hidden_size) /
         (machine.cluster.memory_bandwidth.value * serving.weight_streaming);
}

ServingMemory prefill_memory(const deepseek::ModelConfig& model, const Deployment& d) {
  const double tokens = static_cast<double>(d.tokens_a_gpu);
  // New latents and the cached ones they attend to, of the whole tensor group on each of its ranks.
  const double cached = tokens / (1 - d.cache_hits) * static_cast<double>(d.tensor);
  return {weight_bytes(model, d), cached * cache_bytes_a_token(model, d),
          buffer_bytes(model, tokens / (d.two_micro_batches ? 2 : 1))};
}

ServingMemory decode_memory(const deepseek::ModelConfig& model, const Deployment& d) {
  const double held = static_cast<double>(d.batch_a_gpu * d.tensor) * d.attention_imbalance;
  return {weight_bytes(model, d), held * static_cast<double>(d.context) * cache_bytes_a_token(model, d),
          buffer_bytes(model, static_cast<double>(d.batch_a_gpu * (1 + d.drafts)))};
}

}  // namespace moray::plan
