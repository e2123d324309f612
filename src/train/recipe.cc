#include "train/recipe.h"

#include <fmt/ranges.h>

#include <algorithm>

namespace moray {

namespace {

int64_t at_least(Config& config, const char* key, int64_t fallback, int64_t least) {
  const int64_t value = config.integer(key, fallback);
  if (value < least) fail("{} is {}, expected at least {}", config.where(key), value, least);
  return value;
}

double number_in(Config& config, const char* key, double fallback, double least, double most) {
  const double value = config.number(key, fallback);
  if (!(value >= least && value <= most))
    fail("{} is {}, expected {} to {}", config.where(key), value, least, most);
  return value;
}

DType dtype_of_name(Config& config, const char* key, const char* fallback) {
  const std::string name = config.string(key, fallback);
  if (name == "f32") return DType::f32;
  if (name == "bf16") return DType::bf16;
  fail("{} is '{}', expected 'f32' or 'bf16'", config.where(key), name);
}

// Operands of a product are E4M3 or not quantized at all: `operand` refuses the rest.
CodeForm code_form_from(Config& config, const char* key, CodeForm fallback, bool operand) {
  const auto spelled = [](CodeForm form) {
    return !form                          ? "bf16"
           : *form == CodeFormat::f8_e4m3 ? "e4m3"
           : *form == CodeFormat::f8_e5m2 ? "e5m2"
                                          : "e5m6";
  };
  const std::string name = config.string(key, spelled(fallback));
  for (CodeForm form : {CodeForm(), CodeForm(CodeFormat::f8_e4m3), CodeForm(CodeFormat::f12_e5m6)})
    if (name == spelled(form) && !(operand && form == CodeFormat::f12_e5m6)) return form;
  fail("{} is '{}', expected {}", config.where(key), name,
       operand ? "'bf16' or 'e4m3'" : "'bf16', 'e4m3' or 'e5m6'");
}

// The narrow half of the keys belongs to FP8 recipes alone; elsewhere they are unknown.
Precision precision_from(Config& config) {
  Precision precision;
  const std::string kind = config.string("train.precision", "f32");
  if (kind != "f32" && kind != "bf16" && kind != "fp8")
    fail("{} is '{}', expected 'f32', 'bf16' or 'fp8'", config.where("train.precision"), kind);
  precision.kind = kind == "f32"    ? PrecisionKind::f32
                   : kind == "bf16" ? PrecisionKind::bf16
                                    : PrecisionKind::fp8;
  precision.recompute_norms = config.boolean("train.recompute_norms", precision.fp8());
  precision.recompute_mla_up = config.boolean("train.recompute_mla_up", precision.fp8());
  if (!precision.fp8()) return precision;
  const std::string scales = config.string("train.fp8.scales", "fp32");
  if (scales != "fp32" && scales != "power_of_two")
    fail("{} is '{}', expected 'fp32' or 'power_of_two'", config.where("train.fp8.scales"), scales);
  precision.scales = scales == "fp32" ? ScaleFormat::fp32 : ScaleFormat::power_of_two;
  const auto form = [&](const char* key, CodeForm& value, bool operand) {
    value = code_form_from(config, key, value, operand);
  };
  form("train.fp8.linear_inputs", precision.linear_inputs, true);
  form("train.fp8.attention_output", precision.attention_output, false);
  form("train.fp8.swiglu_inputs", precision.swiglu_inputs, false);
  form("train.fp8.dispatch", precision.dispatch, true);
  form("train.fp8.dispatch_gradient", precision.dispatch_gradient, true);
  const char* const high_key = "train.fp8.high_precision";
  precision.high_precision = 0;
  for (const std::string& name : config.strings(high_key, {"eh_proj"})) {
    const auto found = std::ranges::find(kPartNames, name);
    if (found == kPartNames.end())
      fail("{} holds '{}', expected {}", config.where(high_key), name, fmt::join(kPartNames, ", "));
    precision.high_precision |= static_cast<uint8_t>(1u << (found - kPartNames.begin()));
  }
  return precision;
}

void model_dtype_from(Config& config, RunConfig& run) {
  const char* const key = "run.model_dtype";
  const std::string name = config.string(key, "f32");
  if (name == "f32")
    run.model_dtype = DType::f32;
  else if (name == "bf16")
    run.model_dtype = DType::bf16;
  else if (name == "fp8")
    run.model_dtype = DType::f8_e4m3;
  else
    fail("{} is '{}', expected 'f32', 'bf16' or 'fp8'", config.where(key), name);
  const char* const scales_key = "run.model_scale_fmt";
  const std::string scales = config.string(scales_key, "fp32");
  if (scales != "fp32" && scales != "ue8m0")
    fail("{} is '{}', expected 'fp32' or 'ue8m0'", config.where(scales_key), scales);
  run.model_scales = scales == "ue8m0" ? ScaleFormat::power_of_two : ScaleFormat::fp32;
}

OptimizerConfig optimizer_from(Config& config, const Precision& precision) {
  OptimizerConfig optimizer;
  constexpr double kBelowOne = 1 - 1e-9;
  optimizer.beta1 = number_in(config, "train.adamw.beta1", optimizer.beta1, 0, kBelowOne);
  optimizer.beta2 = number_in(config, "train.adamw.beta2", optimizer.beta2, 0, kBelowOne);
  // Above 0 in f32 too: a weight that never had a gradient (an unseen token's embedding) moves by 0 / eps.
  optimizer.eps = number_in(config, "train.adamw.eps", optimizer.eps, 1e-37, 1e30);
  optimizer.weight_decay = number_in(config, "train.adamw.weight_decay", optimizer.weight_decay, 0, 1e30);
  optimizer.clip_norm = number_in(config, "train.adamw.clip_norm", optimizer.clip_norm, 0, 1e30);
  optimizer.moment_dtype = dtype_of_name(config, "train.adamw.moments", precision.fp8() ? "bf16" : "f32");
  // BF16's steps are 2⁻⁸: v + (1 − beta2)·g² rounds back to v where the second term is smaller than half of
  // one. ops/adamw_test.cc shows how far v then lies above FP32's: not at all for 0.98, 4% for 0.99.
  constexpr double kMostBeta2InBf16 = 0.99;
  if (optimizer.moment_dtype == DType::bf16 && optimizer.beta2 > kMostBeta2InBf16)
    fail(
        "{} is {}: moments in bf16 cannot follow so slow an average; {} at most, or train.adamw.moments = "
        "\"f32\"",
        config.where("train.adamw.beta2"), optimizer.beta2, kMostBeta2InBf16);
  return optimizer;
}

TrainConfig train_from(Config& config) {
  TrainConfig train;
  train.precision = precision_from(config);
  train.seed = static_cast<uint64_t>(config.integer("train.seed", 1));
  train.perturb_initial_weights = config.boolean("train.perturb_initial_weights", false);
  train.tokens = at_least(config, "train.tokens", 0, 1);
  train.sequence_length = at_least(config, "train.sequence_length", train.sequence_length, 1);
  train.batch_size = Schedule::from_recipe(config, "train.batch_size", 8, train.tokens);
  train.batch_multiple = at_least(config, "train.batch_multiple", train.batch_multiple, 1);
  train.micro_batch = at_least(config, "train.micro_batch", train.micro_batch, 1);
  train.gradient_groups = at_least(config, "train.gradient_groups", train.gradient_groups, 1);
  train.isolate_documents = config.boolean("train.isolate_documents", train.isolate_documents);
  train.learning_rate = Schedule::from_recipe(config, "train.learning_rate", 1e-3, train.tokens);
  train.mtp_loss_weight = Schedule::from_recipe(config, "train.mtp_loss_weight", 0.3, train.tokens);
  train.balance_bias_update_speed =
      Schedule::from_recipe(config, "train.balance_bias_update_speed", 0.001, train.tokens);
  train.balance_loss_alpha = number_in(config, "train.balance_loss_alpha", train.balance_loss_alpha, 0, 1e30);
  train.optimizer = optimizer_from(config, train.precision);
  train.ema_decay = number_in(config, "train.ema_decay", train.ema_decay, 0, 1 - 1e-9);
  train.max_bad_steps = at_least(config, "train.max_bad_steps", train.max_bad_steps, 1);
  if (train.batch_size.at(1) < 1 || train.batch_size.greatest() > 1e9)
    fail("{}: batch sizes must lie between 1 and 1e9", config.where("train.batch_size"));
  if (static_cast<double>(train.batch_multiple) > train.batch_size.greatest())
    fail("{} is {}, more than the greatest batch size {}", config.where("train.batch_multiple"),
         train.batch_multiple, train.batch_size.greatest());
  return train;
}

DataConfig data_from(Config& config) {
  DataConfig data;
  data.dataset = config.string("data.dataset", "");
  data.fim_rate = number_in(config, "data.fim_rate", data.fim_rate, 0, 1);
  data.newline_split_rate = number_in(config, "data.newline_split_rate", data.newline_split_rate, 0, 1);
  return data;
}

RunConfig run_from(Config& config) {
  RunConfig run;
  run.validation_interval_steps = at_least(config, "run.validation_interval_steps", 0, 0);
  run.validation_tokens = at_least(config, "run.validation_tokens", run.validation_tokens, 0);
  run.quantization_interval_steps = at_least(config, "run.quantization_interval_steps", 0, 0);
  run.checkpoint_interval_steps = at_least(config, "run.checkpoint_interval_steps", 0, 0);
  run.keep_last = at_least(config, "run.keep_last", run.keep_last, 1);
  model_dtype_from(config, run);
  return run;
}

}  // namespace

Recipe Recipe::from_config(Config& config) {
  Recipe recipe;
  recipe.model = deepseek::ModelConfig::from_recipe(config);
  recipe.data = data_from(config);
  recipe.train = train_from(config);
  recipe.run = run_from(config);
  config.reject_unknown_keys();
  if (recipe.train.sequence_length > recipe.model.max_position_embeddings)
    fail("{} is {}, more than model.max_position_embeddings = {}", config.where("train.sequence_length"),
         recipe.train.sequence_length, recipe.model.max_position_embeddings);
  return recipe;
}

}  // namespace moray
