#include "train/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>

namespace moray {

namespace {
void zero(deepseek::Model& tree) {
  for (const Parameter& parameter : list_parameters(tree))
    if (parameter.tensor->defined()) parameter.tensor->fill_zero();
}
// Every weight to a neighbour: the last bit turned.
void perturb(deepseek::Model& model) {
  for (const Parameter& parameter : list_parameters(model))
    if (parameter.kind != ParameterKind::buffer && parameter.tensor->dtype() == DType::f32)
      for (float& weight : parameter.tensor->span<float>())
        weight = std::bit_cast<float>(std::bit_cast<uint32_t>(weight) ^ 1u);
}
}  // namespace

deepseek::MicroBatch make_micro_batch(Exec& exec, const SampleSource& source, int64_t batch_begin,
                                      int64_t first, int64_t count, int64_t sequence_length, int64_t depths,
                                      int64_t gradient_groups, bool isolate_documents) {
  deepseek::MicroBatch batch;
  batch.rows = {count, sequence_length, first, gradient_groups};
  const Tensor starts_T = exec.empty_i32({count * sequence_length});
  for (int64_t shift = 0; shift < depths + 2; ++shift)
    batch.shifted_T.push_back(exec.empty_i32({count * sequence_length}));
  const Tensor tokens = exec.empty_i32({sequence_length + 1 + depths});
  for (int64_t s = 0; s < count; ++s) {
    source(static_cast<uint64_t>(batch_begin + first + s), tokens.span<int32_t>(),
           starts_T.rows(s * sequence_length, (s + 1) * sequence_length).span<int32_t>());
    for (int64_t shift = 0; shift < depths + 2; ++shift) {
      const int32_t* from = tokens.data<int32_t>() + shift;
      std::copy(from, from + sequence_length,
                batch.shifted_T[static_cast<size_t>(shift)].data<int32_t>() + s * sequence_length);
    }
  }
  if (isolate_documents) batch.document_starts_T = starts_T;
  return batch;
}

Trainer::Trainer(Exec& exec, const deepseek::ModelConfig& model, const TrainConfig& config)
    : exec_(exec),
      config_(config),
      model_(deepseek::allocate_model(exec, model)),
      compute_model_(deepseek::allocate_compute_copy(exec, model_, config.precision)),
      gradients_(deepseek::allocate_gradients(exec, model_, config.gradient_groups)),
      optimizer_(exec, model_, config.optimizer),
      rope_(deepseek::make_rope_table(exec, model, config.sequence_length)) {
  deepseek::initialize(exec, model_, config.seed);
  if (config.ema_decay > 0) {
    average_pool_ = std::make_unique<ThreadPool>(1);
    average_ = model_;
    average_.visit("", [&](const std::string&, Tensor& tensor, ParameterKind) {
      tensor = Tensor::empty(*exec.allocator, tensor.shape(), tensor.dtype());
    });
  }
  begin_with_weights();
}

void Trainer::begin_with_weights() {
  if (config_.perturb_initial_weights) perturb(model_);
  refresh_compute_model();
  restart_average();
}

Trainer::~Trainer() {
  join_average();
}

Exec Trainer::compute_exec() const {
  Exec exec = exec_;
  if (config_.precision.kind != PrecisionKind::f32) exec.dtype = config_.precision.activations();
  return exec;
}

void Trainer::refresh_compute_model(QuantizationCounts* counts) {
  Exec exec = exec_;
  exec.quantization = counts;
  deepseek::refresh_compute_copy(exec, model_, compute_model_);
}

int64_t Trainer::batch_size_at(int64_t tokens) const {
  const auto size = static_cast<int64_t>(config_.batch_size.at(tokens));
  return std::max(config_.batch_multiple, size / config_.batch_multiple * config_.batch_multiple);
}

int64_t Trainer::total_steps() const {
  constexpr int64_t kCounted = 10'000'000;  // beyond, the batch is taken to stay as it is then
  int64_t steps = 0, tokens = 0;
  for (; tokens < config_.tokens && steps < kCounted; ++steps)
    tokens += batch_size_at(tokens) * config_.sequence_length;
  const int64_t step_tokens = batch_size_at(tokens) * config_.sequence_length;
  return steps + std::max<int64_t>(0, config_.tokens - tokens + step_tokens - 1) / step_tokens;
}

deepseek::LossScales Trainer::loss_scales(int64_t batch) const {
  const int64_t depths = model_.config.num_nextn_predict_layers;
  const auto targets = static_cast<double>(batch * config_.sequence_length);
  deepseek::LossScales scales;
  scales.main = 1 / targets;
  if (depths > 0)
    scales.mtp = config_.mtp_loss_weight.at(counters_.tokens) / static_cast<double>(depths) / targets;
  scales.balance = config_.balance_loss_alpha / static_cast<double>(batch);
  return scales;
}

void Trainer::accumulate(const SampleSource& source, int64_t first, int64_t count,
                         const deepseek::LossScales& scales, deepseek::BatchStats& stats,
                         FiniteFinder* finder, QuantizationCounts* counts) {
  const deepseek::MicroBatch micro_batch = make_micro_batch(
      exec_, source, counters_.samples, first, count, config_.sequence_length,
      model_.config.num_nextn_predict_layers, config_.gradient_groups, config_.isolate_documents);
  Exec exec = compute_exec();
  exec.finder = finder;
  exec.quantization = counts;
  if (finder != nullptr) exec.tracer = nullptr;
  deepseek::forward_backward(exec, compute_model_, micro_batch, scales, rope_, gradients_, stats);
}

double Trainer::seconds_per_token(const SampleSource& source) {
  const int64_t batch = batch_size_at(counters_.tokens), count = std::min(config_.micro_batch, batch);
  deepseek::BatchStats thrown_away = deepseek::make_batch_stats(model_.config);
  double seconds = 0;
  for (int repeat = 0; repeat < 2; ++repeat) {  // the first warms memory up
    const auto start = std::chrono::steady_clock::now();
    accumulate(source, 0, count, loss_scales(batch), thrown_away);
    seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  return seconds / static_cast<double>(count * config_.sequence_length);
}

StepResult Trainer::step(const SampleSource& source, QuantizationCounts* counts) {
  const int64_t batch = batch_size_at(counters_.tokens);
  deepseek::BatchStats stats = deepseek::make_batch_stats(model_.config);
  zero(gradients_);
  for (int64_t first = 0; first < batch; first += config_.micro_batch)
    accumulate(source, first, std::min(config_.micro_batch, batch - first), loss_scales(batch), stats,
               nullptr, counts);
  join_gradients(exec_, gradients_, config_.gradient_groups);

  StepResult result;
  result.batch_tokens = batch * config_.sequence_length;
  const auto targets = static_cast<double>(result.batch_tokens);
  result.loss = stats.loss_sums[0] / targets;
  for (size_t depth = 1; depth < stats.loss_sums.size(); ++depth)
    result.mtp_loss.push_back(stats.loss_sums[depth] / targets);
  for (const deepseek::RoutingStats& routing : stats.routing) {
    result.balance_loss += routing.balance_loss / static_cast<double>(batch);
    result.expert_load.push_back(routing.load);
  }
  result.grad_norm = gradient_norm(exec_, gradients_);
  result.learning_rate = config_.learning_rate.at(counters_.tokens + result.batch_tokens);
  bool finite = std::isfinite(result.grad_norm);
  for (double sum : stats.loss_sums) finite = finite && std::isfinite(sum);
  result.skipped = !finite;

  if (result.skipped) result.non_finite = locate_non_finite(source, batch);

  const double gamma = config_.balance_bias_update_speed.at(counters_.tokens);
  ++counters_.step;
  counters_.tokens += result.batch_tokens;
  counters_.samples += batch;
  if (result.skipped) {
    ++counters_.skipped_steps;
    ++counters_.bad_in_a_row;
    return result;
  }
  counters_.bad_in_a_row = 0;
  join_average();
  optimizer_.step(exec_, model_, gradients_, result.learning_rate, result.grad_norm);
  size_t moe_layer = 0;
  const auto update_bias = [&](deepseek::Block& block) {
    if (!block.is_moe) return;
    if (block.gate.has_bias) balance_bias_update(block.gate.bias_E, stats.routing[moe_layer].load, gamma);
    ++moe_layer;
  };
  for (deepseek::Block& block : model_.layers) update_bias(block);
  for (deepseek::MtpModule& module : model_.mtp) update_bias(module.block);
  refresh_compute_model(counts);
  update_average();
  return result;
}

// The step's micro-batches once more, with the bits of the first time, each op examined after it ran. What
// the weights themselves hold comes first.
std::string Trainer::locate_non_finite(const SampleSource& source, int64_t batch) {
  FiniteFinder finder;
  for (const deepseek::NamedWeight& weight : deepseek::named_weights(model_))
    if (const NonFiniteCount count = count_non_finite(weight.tensor); count.any())
      return fmt::format("weight {}: {} NaN, {} infinite", weight.name, count.nans, count.infinities);
  for (deepseek::Model* tree : {&model_, &compute_model_, &gradients_})
    for (const Parameter& parameter : list_parameters(*tree))
      if (parameter.tensor->defined())
        finder.name(*parameter.tensor, (tree == &gradients_ ? "the gradient of " : "") + parameter.name);
  compute_model_.visit_products([&](Tensor& weight, QuantizedTensor* codes) {
    if (codes != nullptr && codes->scales.defined()) finder.name_like(codes->scales, weight);
  });
  zero(gradients_);
  deepseek::BatchStats thrown_away = deepseek::make_batch_stats(model_.config);
  for (int64_t first = 0; first < batch && !finder.found(); first += config_.micro_batch)
    accumulate(source, first, std::min(config_.micro_batch, batch - first), loss_scales(batch), thrown_away,
               &finder);
  return finder.found() ? finder.finding() : "nothing but the gradient norm, which overflows";
}

void Trainer::update_average() {
  if (config_.ema_decay == 0) return;
  Exec beside = exec_;  // copied on this thread: its owner may change it during the next step
  beside.pool = average_pool_.get();
  beside.tracer = nullptr;  // a trace shows the steps; its reader does not wait for this thread
  average_thread_ = std::thread([this, beside]() mutable {
    const std::vector<Parameter> weights = list_parameters(model_), averages = list_parameters(average_);
    for (size_t i = 0; i < weights.size(); ++i)
      ema_update(beside, *weights[i].tensor, config_.ema_decay, *averages[i].tensor);
  });
}

void Trainer::join_average() {
  if (average_thread_.joinable()) average_thread_.join();
}

deepseek::Model* Trainer::average() {
  join_average();
  return config_.ema_decay > 0 ? &average_ : nullptr;
}

void Trainer::restart_average() {
  if (config_.ema_decay == 0) return;
  join_average();
  const std::vector<Parameter> weights = list_parameters(model_), averages = list_parameters(average_);
  for (size_t i = 0; i < weights.size(); ++i) averages[i].tensor->copy_from(*weights[i].tensor);
}

}  // namespace moray
