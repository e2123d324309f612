#include "numerics/gradients.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/json.h"
#include "models/deepseek/compute_copy.h"
#include "numerics/tensors.h"
#include "train/model_folder.h"
#include "train/optimizer.h"

namespace moray::numerics {

namespace {

const char* precision_name(const Precision& precision) {
  switch (precision.kind) {
    case PrecisionKind::f32:
      return "f32";
    case PrecisionKind::bf16:
      return "bf16";
    default:
      return "fp8";
  }
}

// The master weights of a checkpoint, in FP32.
deepseek::Model master_weights(Exec& exec, const Checkpoint& checkpoint,
                               const deepseek::ModelConfig& config) {
  deepseek::Model model = deepseek::allocate_model(exec, config);
  if (!checkpoint.has_state("master")) {
    read_weights(checkpoint.model(), model);
    return model;
  }
  for (const deepseek::NamedWeight& weight : deepseek::named_weights(model))
    checkpoint.state("master").read(weight.name, weight.tensor);
  return model;
}

struct Batch {
  const SampleSource& source;
  int64_t begin = 0, samples = 0;  // of the run
};

// As Trainer::step forms it, of the first samples of a batch.
deepseek::Model gradient_of(Exec& exec, deepseek::Model& master, const TrainConfig& config,
                            const Precision& precision, const Batch& batch, int64_t tokens) {
  deepseek::Model weights = deepseek::allocate_compute_copy(exec, master, precision);
  deepseek::refresh_compute_copy(exec, master, weights);
  deepseek::Model gradients = deepseek::allocate_gradients(exec, master, config.gradient_groups);
  const int64_t depths = master.config.num_nextn_predict_layers, length = config.sequence_length;
  const RopeTable rope = deepseek::make_rope_table(exec, master.config, length);
  const auto targets = static_cast<double>(batch.samples * length);
  deepseek::LossScales scales;
  scales.main = 1 / targets;
  if (depths > 0) scales.mtp = config.mtp_loss_weight.at(tokens) / static_cast<double>(depths) / targets;
  scales.balance = config.balance_loss_alpha / static_cast<double>(batch.samples);
  Exec compute = exec;
  compute.dtype = precision.activations();
  deepseek::BatchStats stats = deepseek::make_batch_stats(master.config);
  for (int64_t first = 0; first < batch.samples; first += config.micro_batch) {
    const int64_t count = std::min(config.micro_batch, batch.samples - first);
    const deepseek::MicroBatch micro_batch =
        make_micro_batch(exec, batch.source, batch.begin, first, count, length, depths,
                         config.gradient_groups, config.isolate_documents);
    deepseek::forward_backward(compute, weights, micro_batch, scales, rope, gradients, stats);
  }
  join_gradients(exec, gradients, config.gradient_groups);
  return gradients;
}

GradientAngle angle_of(const Tensor& a, const Tensor& b, const std::string& name) {
  GradientAngle angle;
  const std::span<const float> x = a.span<float>(), y = b.span<float>();
  for (size_t i = 0; i < x.size(); ++i) {
    const double p = x[i], q = y[i];
    angle.dot += p * q, angle.squares_a += p * p, angle.squares_b += q * q;
  }
  if (!std::isfinite(angle.dot) || !std::isfinite(angle.squares_a) || !std::isfinite(angle.squares_b))
    fail("the gradient of {} is not finite", name);
  return angle;
}

void add(const GradientRow& parameter, GradientRow& row) {
  const auto add_optional = [](const std::optional<GradientAngle>& from, std::optional<GradientAngle>& into) {
    if (!from) return;
    if (!into) into.emplace();
    into->add(*from);
  };
  row.runs.add(parameter.runs);
  add_optional(parameter.baseline_f32, row.baseline_f32);
  add_optional(parameter.run_f32, row.run_f32);
}

// "model.layers.3.mlp.gate.weight" belongs to "layer 3".
std::string layer_of(const std::string& name, int64_t layers) {
  const std::string prefix = "model.layers.";
  if (name.starts_with(prefix)) {
    const int64_t layer = std::stoll(name.substr(prefix.size()));
    return layer < layers ? fmt::format("layer {}", layer) : fmt::format("MTP {}", layer - layers + 1);
  }
  if (name.starts_with("model.embed_tokens")) return "embedding";
  return name.starts_with("lm_head") ? "head" : "final norm";
}

// Rows by name, in the order in which they first came.
class Rows {
 public:
  void add_to(const std::string& name, const GradientRow& parameter) {
    const auto [at, is_new] = place_.emplace(name, rows_.size());
    if (is_new) rows_.push_back({.name = name, .runs = {}, .baseline_f32 = {}, .run_f32 = {}});
    add(parameter, rows_[at->second]);
  }
  std::vector<GradientRow> take() { return std::move(rows_); }

 private:
  std::map<std::string, size_t> place_;
  std::vector<GradientRow> rows_;
};

void expect_same_batches(const Recipe& baseline, const Recipe& run) {
  if (baseline.model.to_json("", 0, 0) != run.model.to_json("", 0, 0)) fail("the two runs' models differ");
  if (baseline.train.sequence_length != run.train.sequence_length)
    fail("the two runs' sequence lengths differ: {} and {}", baseline.train.sequence_length,
         run.train.sequence_length);
  if (baseline.train.seed != run.train.seed)
    fail("the two runs' seeds differ: {} and {}", baseline.train.seed, run.train.seed);
}

}  // namespace

double GradientAngle::cosine() const {
  if (squares_a == 0 || squares_b == 0) return squares_a == squares_b ? 1 : 0;
  return dot / (std::sqrt(squares_a) * std::sqrt(squares_b));
}

double GradientAngle::relative_length() const {
  return squares_a == 0 ? 0 : std::sqrt(squares_b / squares_a) - 1;
}

void GradientAngle::add(const GradientAngle& other) {
  dot += other.dot;
  squares_a += other.squares_a;
  squares_b += other.squares_b;
}

GradientComparison compare_gradients(Exec& exec, const Checkpoint& checkpoint, const Recipe& baseline,
                                     const Recipe& run, const SampleSource& source, int64_t samples) {
  expect_same_batches(baseline, run);
  const std::string where = (checkpoint.path() / "state/trainer.json").string();
  const nlohmann::json counters = parse_json(checkpoint.trainer_json(), where);
  const Batch batch{source, json_integer(counters, "next_sample", where), samples};
  const int64_t tokens = json_integer(counters, "tokens", where);
  deepseek::Model master = master_weights(exec, checkpoint, baseline.model);
  const auto gradient = [&](const Precision& precision) {
    return gradient_of(exec, master, baseline.train, precision, batch, tokens);
  };
  const Precision &a_precision = baseline.train.precision, &b_precision = run.train.precision;
  deepseek::Model a = gradient(a_precision), b = gradient(b_precision);
  const bool a_is_f32 = a_precision.kind == PrecisionKind::f32,
             b_is_f32 = b_precision.kind == PrecisionKind::f32;
  deepseek::Model f32 = a_is_f32 ? a : b_is_f32 ? b : gradient({});

  GradientComparison comparison;
  comparison.step = checkpoint.step();
  comparison.samples = samples;
  comparison.baseline = precision_name(a_precision);
  comparison.run = precision_name(b_precision);
  comparison.all.name = "all";
  Rows layers, kinds;
  const std::vector<Parameter> a_list = list_parameters(a), b_list = list_parameters(b),
                               f32_list = list_parameters(f32);
  for (size_t i = 0; i < a_list.size(); ++i) {
    if (a_list[i].kind == ParameterKind::buffer) continue;
    const auto angle = [&](const Parameter& x, const Parameter& y) {
      return angle_of(joined_gradient(x), joined_gradient(y), x.name);
    };
    GradientRow row{a_list[i].name, angle(a_list[i], b_list[i]), {}, {}};
    if (!a_is_f32) row.baseline_f32 = angle(f32_list[i], a_list[i]);
    if (!b_is_f32) row.run_f32 = angle(f32_list[i], b_list[i]);
    add(row, comparison.all);
    layers.add_to(layer_of(row.name, baseline.model.num_hidden_layers), row);
    kinds.add_to(tensor_kind(fmt::format(fmt::runtime(row.name), 0)), row);
  }
  comparison.layers = layers.take();
  comparison.kinds = kinds.take();
  return comparison;
}

}  // namespace moray::numerics
