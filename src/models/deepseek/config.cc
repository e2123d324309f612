#include "models/deepseek/config.h"

#include <cmath>
#include <nlohmann/json.hpp>

namespace moray::deepseek {

namespace {

using Json = nlohmann::ordered_json;

ScoringFunc scoring_func_of(const std::string& name, const std::string& where) {
  if (name == "sigmoid") return ScoringFunc::sigmoid;
  if (name == "softmax") return ScoringFunc::softmax;
  fail("{}: scoring_func is '{}', expected 'sigmoid' or 'softmax'", where, name);
}

const char* scoring_func_name(ScoringFunc scoring_func) {
  return scoring_func == ScoringFunc::sigmoid ? "sigmoid" : "softmax";
}

// A JSON object read by key with errors that name the file and the key.
struct JsonObject {
  const Json& object;
  std::string source;

  template <class T>
  T get(const char* key, T fallback) const {
    const auto found = object.find(key);
    if (found == object.end() || found->is_null()) return fallback;
    try {
      if constexpr (std::is_same_v<T, int64_t>)
        if (!found->is_number_integer())
          fail("{}: '{}' is {}, expected an integer", source, key, found->dump());
      return found->get<T>();
    } catch (const Json::exception&) {
      fail("{}: '{}' has the wrong type: {}", source, key, found->dump());
    }
  }
  template <class T>
  T require(const char* key) const {
    if (!object.contains(key)) fail("{}: '{}' is missing", source, key);
    return get<T>(key, T{});
  }
  // That a key, where there is one, changes nothing.
  template <class T>
  void expect(const char* key, T known) const {
    if (get<T>(key, known) != known)
      fail("{}: '{}' is {}, only {} is known", source, key, object.at(key).dump(), known);
  }
  void expect_none(const char* key) const {
    if (const auto found = object.find(key); found != object.end() && !found->is_null())
      fail("{}: '{}' is {}, only null is known", source, key, found->dump());
  }
};

// "type", or "rope_type" as newer files have it. Some have both, and programs disagree about which counts.
std::string rope_type_of(const JsonObject& json) {
  const auto type = json.get<std::string>("type", ""), newer = json.get<std::string>("rope_type", type);
  if (!type.empty() && newer != type)
    fail("{}: 'type' is '{}', but 'rope_type' is '{}'", json.source, type, newer);
  return newer;
}

// A factor on cos and sin in place of the one that follows from mscale and mscale_all_dim.
void expect_attention_factor(const JsonObject& json, const YarnConfig& yarn) {
  const double known = yarn_amplitude(yarn), given = json.get<double>("attention_factor", known);
  if (!(std::abs(given - known) <= 1e-6 * known))
    fail("{}: 'attention_factor' is {}, only what mscale and mscale_all_dim give is known, {:.7g}",
         json.source, json.object.at("attention_factor").dump(), known);
}

YarnConfig yarn_from_json(const JsonObject& json) {
  YarnConfig yarn;
  yarn.factor = json.require<double>("factor");
  yarn.beta_fast = json.get<double>("beta_fast", 32);
  yarn.beta_slow = json.get<double>("beta_slow", 1);
  yarn.mscale = json.get<double>("mscale", 1);
  yarn.mscale_all_dim = json.get<double>("mscale_all_dim", 0);
  yarn.original_max_position_embeddings = json.get<int64_t>("original_max_position_embeddings", 4096);
  expect_attention_factor(json, yarn);
  json.expect("truncate", true);
  return yarn;
}

// rope_scaling, or rope_parameters, which hold rope_theta too and may be plain RoPE's, with a type or
// without.
std::optional<YarnConfig> rope_from_json(const JsonObject& json) {
  json.expect("partial_rotary_factor", 1.0);
  const bool plain = json.object.contains("rope_theta") && !json.object.contains("factor");
  const std::string type = rope_type_of(json);
  if (type == "default" || (type.empty() && plain)) return std::nullopt;
  if (type.empty()) fail("{}: 'type' is missing", json.source);
  if (type != "yarn") fail("{}: its type is '{}', only 'yarn' is known", json.source, type);
  return yarn_from_json(json);
}

// What this code has no arithmetic for is refused by its name.
void refuse_unknown_arithmetic(const JsonObject& json) {
  json.expect("attention_bias", false);
  json.expect("mlp_bias", false);
  json.expect("moe_layer_freq", int64_t{1});
  json.expect("rope_interleave", true);
  json.expect("partial_rotary_factor", 1.0);
  for (const char* key :
       {"sliding_window", "attn_logit_softcapping", "final_logit_softcapping", "swiglu_limit"})
    json.expect_none(key);
  if (json.object.contains("index_topk") || json.object.contains("index_n_heads"))
    fail("{}: sparse attention (DeepSeek-V3.2) is not supported; V3.1 is the latest of the family that is",
         json.source);
  const auto found = json.object.find("quantization_config");
  if (found == json.object.end() || found->is_null()) return;
  if (!found->is_object()) fail("{}: quantization_config is no object", json.source);
  const JsonObject quantization{*found, json.source + ": quantization_config"};
  const auto method = quantization.get<std::string>("quant_method", "");
  if (method == "moray") return;  // weights of 8 or 4 bits: checkpoint/int_weights.h
  if (method != "fp8")
    fail(
        "{}: quant_method is '{}', only 'fp8' (blocks of 128 × 128) is known; take the model's FP8 or BF16 "
        "folder instead",
        quantization.source, method);
  if (const auto format = quantization.get<std::string>("fmt", "e4m3"); format != "e4m3")
    fail("{}: fmt is '{}', only 'e4m3' is known", quantization.source, format);
  if (const auto blocks = found->find("weight_block_size");
      blocks == found->end() || *blocks != Json::array({128, 128}))
    fail("{}: weight_block_size is {}, only [128, 128] is known", quantization.source,
         blocks == found->end() ? "missing" : blocks->dump());
}

// How experts are chosen: "noaux_tc" (V3) with balance bias and groups by their two best; V2 by plain scores,
// "group_limited_greedy" with groups by their best, "greedy" without groups whatever n_group says.
void apply_topk_method(const JsonObject& json, ModelConfig& model) {
  const std::string by_default = model.is_v3()       ? "noaux_tc"
                                 : model.n_group > 1 ? "group_limited_greedy"
                                                     : "greedy";
  const auto method = json.get<std::string>("topk_method", by_default);
  if (method == "greedy" && !model.is_v3())
    model.n_group = model.topk_group = 1;
  else if (method != (model.is_v3() ? "noaux_tc" : "group_limited_greedy"))
    fail("{}: topk_method is '{}', which does not go with scoring_func '{}'", json.source, method,
         scoring_func_name(model.scoring_func));
  // The authors' V2 code scales gates only where it does not normalise them.
  if (!model.is_v3() && model.norm_topk_prob && model.num_experts_per_tok > 1)
    model.routed_scaling_factor = 1;
}

// rope_theta and rope_scaling, or what newer files have in their place, rope_parameters.
void read_rope(const JsonObject& json, ModelConfig& model) {
  model.rope_theta = json.get<double>("rope_theta", 10000);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const auto found = json.object.find(key);
    if (found == json.object.end() || found->is_null()) continue;
    if (!found->is_object()) fail("{}: {} is no object", json.source, key);
    const JsonObject rope{*found, json.source + ": " + key};
    model.rope_theta = rope.get<double>("rope_theta", model.rope_theta);
    if (const auto yarn = rope_from_json(rope)) model.rope_scaling = yarn;
  }
}

// Limits far beyond any model, within which every count of parameters stays below 2^63: 3 · width · width ·
// experts · layers = 3 · 2^61, heads · width · hidden · layers = 2^61.
constexpr int64_t kMostWidth = 1 << 18, kMostRows = 1 << 20, kMostExperts = 1 << 13, kMostLayers = 1 << 12;

void expect_in(const char* key, int64_t value, int64_t least, int64_t most) {
  if (value < least || value > most) fail("model.{} is {}, expected {} to {}", key, value, least, most);
}

}  // namespace

RouterConfig ModelConfig::router() const {
  return {scoring_func,          n_group, topk_group, num_experts_per_tok, norm_topk_prob,
          routed_scaling_factor, is_v3()};
}

MlaShape ModelConfig::mla() const {
  return {num_attention_heads, qk_nope_head_dim, qk_rope_head_dim, v_head_dim,
          mla_softmax_scale(qk_nope_head_dim + qk_rope_head_dim, rope_scaling)};
}

void ModelConfig::validate() const {
  expect_in("vocab_size", vocab_size, 1, kMostRows);
  expect_in("hidden_size", hidden_size, 1, kMostWidth);
  expect_in("num_hidden_layers", num_hidden_layers, 1, kMostLayers);
  expect_in("first_k_dense_replace", first_k_dense_replace, 0, kMostLayers);
  expect_in("num_attention_heads", num_attention_heads, 1, kMostExperts);
  expect_in("q_lora_rank", q_lora_rank, 0, kMostWidth);
  expect_in("kv_lora_rank", kv_lora_rank, 1, kMostWidth);
  expect_in("qk_nope_head_dim", qk_nope_head_dim, 1, kMostWidth);
  expect_in("qk_rope_head_dim", qk_rope_head_dim, 2, kMostWidth);
  expect_in("v_head_dim", v_head_dim, 1, kMostWidth);
  expect_in("max_position_embeddings", max_position_embeddings, 1, int64_t{1} << 31);
  expect_in("num_nextn_predict_layers", num_nextn_predict_layers, 0, kMostLayers);
  if (!(initializer_range >= 0 && std::isfinite(initializer_range)))
    fail("model.initializer_range is {}, expected a finite number, 0 or more", initializer_range);
  if (!std::isfinite(routed_scaling_factor))
    fail("model.routed_scaling_factor is {}, expected a finite number", routed_scaling_factor);
  if (qk_rope_head_dim % 2 != 0)
    fail("model.qk_rope_head_dim is {}, expected an even number", qk_rope_head_dim);
  if (first_k_dense_replace > 0) expect_in("intermediate_size", intermediate_size, 1, kMostWidth);
  if (first_k_dense_replace < num_hidden_layers || num_nextn_predict_layers > 0) {
    expect_in("moe_intermediate_size", moe_intermediate_size, 1, kMostWidth);
    expect_in("n_routed_experts", n_routed_experts, 1, kMostExperts);
    expect_in("num_experts_per_tok", num_experts_per_tok, 1, kMostExperts);
    expect_in("n_shared_experts", n_shared_experts, 0, kMostExperts);
    expect_in("n_group", n_group, 1, kMostExperts);
    expect_in("topk_group", topk_group, 1, kMostExperts);
    if (n_routed_experts % n_group != 0)
      fail("model.n_routed_experts is {}, not a multiple of n_group = {}", n_routed_experts, n_group);
    if (topk_group > n_group) fail("model.topk_group is {}, more than n_group = {}", topk_group, n_group);
    if (num_experts_per_tok > n_routed_experts / n_group * topk_group)
      fail("model.num_experts_per_tok is {}, but the {} chosen groups hold {} experts", num_experts_per_tok,
           topk_group, n_routed_experts / n_group * topk_group);
  }
  // Every key may be at its limit, but not all together: counts of parameters and bytes are of 64 bits.
  const auto wide = [](int64_t value) { return static_cast<double>(value); };
  const double attention = wide(num_attention_heads) *
                           wide(qk_nope_head_dim + qk_rope_head_dim + v_head_dim) *
                           wide(q_lora_rank + kv_lora_rank + 2 * hidden_size),
               mlp = 3 * wide(hidden_size) *
                     wide(std::max(intermediate_size,
                                   moe_intermediate_size * (n_routed_experts + n_shared_experts)));
  constexpr double kMostParameters = 1e16;
  if (!(wide(num_hidden_layers + num_nextn_predict_layers) * (attention + mlp) < kMostParameters))
    fail("model: has more than {:g} parameters", kMostParameters);
  if (!(rope_theta > 1)) fail("model.rope_theta is {}, expected more than 1", rope_theta);
  if (!(rms_norm_eps > 0)) fail("model.rms_norm_eps is {}, expected more than 0", rms_norm_eps);
  if (rope_scaling) {
    if (!(rope_scaling->factor >= 1))
      fail("model.rope_scaling.factor is {}, expected at least 1", rope_scaling->factor);
    if (!(rope_scaling->beta_fast > 0) || !(rope_scaling->beta_slow > 0))
      fail("model.rope_scaling: beta_fast and beta_slow must be positive");
    if (rope_scaling->original_max_position_embeddings < 1)
      fail("model.rope_scaling.original_max_position_embeddings is {}, expected at least 1",
           rope_scaling->original_max_position_embeddings);
  }
}

ModelConfig ModelConfig::from_recipe(Config& recipe) {
  ModelConfig model;
  const auto integer = [&](const char* key, int64_t& field) {
    field = recipe.integer("model." + std::string(key), field);
  };
  const auto number = [&](const char* key, double& field) {
    field = recipe.number("model." + std::string(key), field);
  };
  integer("vocab_size", model.vocab_size);
  integer("hidden_size", model.hidden_size);
  integer("num_hidden_layers", model.num_hidden_layers);
  integer("first_k_dense_replace", model.first_k_dense_replace);
  integer("intermediate_size", model.intermediate_size);
  integer("moe_intermediate_size", model.moe_intermediate_size);
  integer("n_routed_experts", model.n_routed_experts);
  integer("num_experts_per_tok", model.num_experts_per_tok);
  integer("n_shared_experts", model.n_shared_experts);
  integer("n_group", model.n_group);
  integer("topk_group", model.topk_group);
  model.scoring_func = scoring_func_of(recipe.string("model.scoring_func", "sigmoid"), "model");
  model.norm_topk_prob = recipe.boolean("model.norm_topk_prob", model.norm_topk_prob);
  number("routed_scaling_factor", model.routed_scaling_factor);
  integer("num_attention_heads", model.num_attention_heads);
  integer("q_lora_rank", model.q_lora_rank);
  integer("kv_lora_rank", model.kv_lora_rank);
  integer("qk_nope_head_dim", model.qk_nope_head_dim);
  integer("qk_rope_head_dim", model.qk_rope_head_dim);
  integer("v_head_dim", model.v_head_dim);
  number("rope_theta", model.rope_theta);
  number("rms_norm_eps", model.rms_norm_eps);
  integer("max_position_embeddings", model.max_position_embeddings);
  integer("num_nextn_predict_layers", model.num_nextn_predict_layers);
  number("initializer_range", model.initializer_range);
  if (recipe.has("model.rope_scaling.factor")) {
    YarnConfig yarn;
    number("rope_scaling.factor", yarn.factor);
    number("rope_scaling.beta_fast", yarn.beta_fast);
    number("rope_scaling.beta_slow", yarn.beta_slow);
    number("rope_scaling.mscale", yarn.mscale);
    number("rope_scaling.mscale_all_dim", yarn.mscale_all_dim);
    integer("rope_scaling.original_max_position_embeddings", yarn.original_max_position_embeddings);
    model.rope_scaling = yarn;
  }
  model.validate();
  return model;
}

ModelConfig ModelConfig::from_json(const std::string& text, const std::string& source) {
  Json root;
  try {
    root = Json::parse(text);
  } catch (const Json::exception& error) {
    fail("{}: not valid JSON: {}", source, error.what());
  }
  if (!root.is_object()) fail("{}: expected a JSON object", source);
  const JsonObject json{root, source};
  ModelConfig model;
  const std::string type = json.get<std::string>("model_type", "");
  if (type == "deepseek_v32")
    fail(
        "{}: model_type is '{}': sparse attention is not supported; V3.1 is the latest of the family that is",
        source, type);
  if (type != "deepseek_v3" && type != "deepseek_v2" && type != "kimi_k2")
    fail("{}: model_type is '{}', known are deepseek_v3, deepseek_v2 and kimi_k2", source, type);
  if (json.get<bool>("tie_word_embeddings", false))
    fail("{}: tie_word_embeddings is true, which no such model has", source);
  if (const auto act = json.get<std::string>("hidden_act", "silu"); act != "silu")
    fail("{}: hidden_act is '{}', expected 'silu'", source, act);
  refuse_unknown_arithmetic(json);
  model.vocab_size = json.require<int64_t>("vocab_size");
  model.hidden_size = json.require<int64_t>("hidden_size");
  model.num_hidden_layers = json.require<int64_t>("num_hidden_layers");
  model.first_k_dense_replace = json.get<int64_t>("first_k_dense_replace", 0);
  model.intermediate_size = json.get<int64_t>("intermediate_size", 0);
  model.moe_intermediate_size = json.get<int64_t>("moe_intermediate_size", 0);
  model.n_routed_experts = json.get<int64_t>("n_routed_experts", 0);
  model.num_experts_per_tok = json.get<int64_t>("num_experts_per_tok", 0);
  model.n_shared_experts = json.get<int64_t>("n_shared_experts", 0);
  model.n_group = json.get<int64_t>("n_group", 1);
  model.topk_group = json.get<int64_t>("topk_group", 1);
  model.scoring_func = scoring_func_of(
      json.get<std::string>("scoring_func", type == "deepseek_v2" ? "softmax" : "sigmoid"), source);
  model.norm_topk_prob = json.get<bool>("norm_topk_prob", type != "deepseek_v2");
  model.routed_scaling_factor = json.get<double>("routed_scaling_factor", 1);
  model.num_attention_heads = json.require<int64_t>("num_attention_heads");
  model.q_lora_rank = json.get<int64_t>("q_lora_rank", 0);
  model.kv_lora_rank = json.require<int64_t>("kv_lora_rank");
  model.qk_nope_head_dim = json.require<int64_t>("qk_nope_head_dim");
  model.qk_rope_head_dim = json.require<int64_t>("qk_rope_head_dim");
  model.v_head_dim = json.require<int64_t>("v_head_dim");
  read_rope(json, model);
  model.rms_norm_eps = json.get<double>("rms_norm_eps", 1e-6);
  model.max_position_embeddings = json.get<int64_t>("max_position_embeddings", 4096);
  model.num_nextn_predict_layers = json.get<int64_t>("num_nextn_predict_layers", 0);
  model.initializer_range = json.get<double>("initializer_range", 0.006);
  apply_topk_method(json, model);
  try {
    model.validate();
  } catch (const Error& error) {
    fail("{}: {}", source, error.what());
  }
  return model;
}

std::string ModelConfig::to_json(const std::string& torch_dtype, int64_t bos_token_id,
                                 int64_t eos_token_id) const {
  Json json;
  json["architectures"] = {is_v3() ? "DeepseekV3ForCausalLM" : "DeepseekV2ForCausalLM"};
  json["model_type"] = is_v3() ? "deepseek_v3" : "deepseek_v2";
  json["vocab_size"] = vocab_size;
  json["hidden_size"] = hidden_size;
  json["num_hidden_layers"] = num_hidden_layers;
  json["first_k_dense_replace"] = first_k_dense_replace;
  json["intermediate_size"] = intermediate_size;
  json["moe_intermediate_size"] = moe_intermediate_size;
  json["moe_layer_freq"] = 1;
  json["n_routed_experts"] = n_routed_experts;
  json["num_experts_per_tok"] = num_experts_per_tok;
  json["n_shared_experts"] = n_shared_experts;
  json["n_group"] = n_group;
  json["topk_group"] = topk_group;
  json["scoring_func"] = scoring_func_name(scoring_func);
  json["topk_method"] = is_v3() ? "noaux_tc" : n_group > 1 ? "group_limited_greedy" : "greedy";
  json["norm_topk_prob"] = norm_topk_prob;
  json["routed_scaling_factor"] = routed_scaling_factor;
  json["num_attention_heads"] = num_attention_heads;
  json["num_key_value_heads"] = num_attention_heads;
  json["q_lora_rank"] = q_lora_rank > 0 ? Json(q_lora_rank) : Json(nullptr);
  json["kv_lora_rank"] = kv_lora_rank;
  json["qk_nope_head_dim"] = qk_nope_head_dim;
  json["qk_rope_head_dim"] = qk_rope_head_dim;
  json["v_head_dim"] = v_head_dim;
  json["rope_theta"] = rope_theta;
  json["rope_scaling"] = nullptr;
  if (rope_scaling)
    json["rope_scaling"] = {
        {"type", "yarn"},
        {"factor", rope_scaling->factor},
        {"beta_fast", rope_scaling->beta_fast},
        {"beta_slow", rope_scaling->beta_slow},
        {"mscale", rope_scaling->mscale},
        {"mscale_all_dim", rope_scaling->mscale_all_dim},
        {"original_max_position_embeddings", rope_scaling->original_max_position_embeddings}};
  json["rms_norm_eps"] = rms_norm_eps;
  json["max_position_embeddings"] = max_position_embeddings;
  json["num_nextn_predict_layers"] = num_nextn_predict_layers;
  json["initializer_range"] = initializer_range;
  json["hidden_act"] = "silu";
  json["attention_bias"] = false;
  json["attention_dropout"] = 0.0;
  json["tie_word_embeddings"] = false;
  json["bos_token_id"] = bos_token_id;
  json["eos_token_id"] = eos_token_id;
  json["torch_dtype"] = torch_dtype;
  json["use_cache"] = true;
  return json.dump(2) + "\n";
}

ParameterCounts count_parameters(const ModelConfig& model) {
  const int64_t hidden = model.hidden_size, key_width = model.qk_nope_head_dim + model.qk_rope_head_dim;
  const int64_t heads = model.num_attention_heads;
  int64_t attention = hidden * (model.kv_lora_rank + model.qk_rope_head_dim) +
                      model.kv_lora_rank * heads * (model.qk_nope_head_dim + model.v_head_dim) +
                      heads * model.v_head_dim * hidden;
  int64_t norms = 2 * hidden + model.kv_lora_rank;
  if (model.q_lora_rank > 0) {
    attention += hidden * model.q_lora_rank + model.q_lora_rank * heads * key_width;
    norms += model.q_lora_rank;
  } else {
    attention += hidden * heads * key_width;
  }
  const int64_t expert = 3 * hidden * model.moe_intermediate_size;
  const int64_t router = hidden * model.n_routed_experts, bias = model.is_v3() ? model.n_routed_experts : 0;
  const int64_t moe_total = attention + router + expert * (model.n_routed_experts + model.n_shared_experts);
  const int64_t moe_active =
      attention + router + expert * (model.num_experts_per_tok + model.n_shared_experts);
  const int64_t dense = attention + 3 * hidden * model.intermediate_size;
  const int64_t dense_layers = std::min(model.first_k_dense_replace, model.num_hidden_layers);
  const int64_t moe_layers = model.num_hidden_layers - dense_layers;
  const int64_t table = model.vocab_size * hidden;

  ParameterCounts counts;
  counts.total =
      2 * table + hidden + dense_layers * (dense + norms) + moe_layers * (moe_total + norms + bias);
  counts.active_matmul = table + dense_layers * dense + moe_layers * moe_active;
  counts.active = counts.active_matmul + table + hidden + model.num_hidden_layers * norms + moe_layers * bias;
  counts.mtp = model.num_nextn_predict_layers * (moe_total + norms + bias + 2 * hidden * hidden + 3 * hidden);
  return counts;
}

}  // namespace moray::deepseek
