#include "serve/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "base/json.h"

namespace moray {

namespace {

using nlohmann::json;

constexpr const char* kFormat = "moray reference 1";

void expect_keys(const json& object, const std::set<std::string>& known, const std::string& where) {
  if (!object.is_object()) fail("{}: expected an object", where);
  for (const auto& [key, value] : object.items())
    if (!known.contains(key)) fail("{}: '{}' is no key of a reference", where, key);
}

int32_t token_of(const json& value, const std::string& where) {
  if (!value.is_number_integer() || value < 0 || value > INT32_MAX)
    fail("{}: {} is no token id", where, value.dump());
  return value.get<int32_t>();
}

std::vector<int32_t> tokens_of(const json& list, const std::string& where) {
  std::vector<int32_t> ids;
  for (const json& id : list) ids.push_back(token_of(id, where));
  if (ids.empty()) fail("{}: there are no tokens", where);
  return ids;
}

// [[id, logprob], ...] or null.
std::vector<TokenLogprob> top_of(const json& list, const std::string& where) {
  std::vector<TokenLogprob> top;
  if (list.is_null()) return top;
  if (!list.is_array()) fail("{}: expected a list of [token, logprob]", where);
  for (const json& pair : list) {
    if (!pair.is_array() || pair.size() != 2 || !pair[1].is_number() || !(pair[1].get<double>() <= 0))
      fail("{}: {} is not [token, logprob]", where, pair.dump());
    top.push_back({token_of(pair[0], where), pair[1].get<double>()});
  }
  return top;
}

ReferenceCase case_of(const json& object, const std::string& where) {
  expect_keys(object, {"name", "text", "prompt", "greedy", "top", "experts"}, where);
  ReferenceCase result;
  result.name = json_string(object, "name", where);
  result.prompt = tokens_of(json_array(object, "prompt", where), where + ": prompt");
  for (int32_t id : tokens_of(json_array(object, "greedy", where), where + ": greedy"))
    result.tokens.push_back({id, {}});
  const json& top = json_array(object, "top", where);
  if (top.size() != result.tokens.size())
    fail("{}: top is of {} tokens, greedy of {}", where, top.size(), result.tokens.size());
  for (size_t i = 0; i < top.size(); ++i)
    result.tokens[i].top = top_of(top[i], fmt::format("{}: top[{}]", where, i));
  if (json_find(object, "experts", where) != nullptr)
    for (const json& hash : json_array(object, "experts", where)) {
      if (!hash.is_string()) fail("{}: experts holds {}, expected a string", where, hash.dump());
      result.experts.push_back(hash.get<std::string>());
    }
  return result;
}

// The reference is of another model when a key that it names differs.
void expect_config(const json& expected, const std::string& config_json, const std::string& where) {
  const json config = parse_json(config_json, "config.json");
  for (const auto& [key, value] : expected.items()) {
    const auto found = config.find(key);
    const json got = found == config.end() ? json() : *found;
    if (got != value)
      fail("{}: is of a model whose {} is {}, here it is {}", where, key, value.dump(), got.dump());
  }
}

struct Step {
  const ReferenceToken& reference;
  size_t index;
  double tolerance;
};

void compare_token(std::span<const float> logits, const Step& step, CaseReport& report) {
  const auto note = [&](const std::string& text) {
    if (report.first_difference.empty())
      report.first_difference = fmt::format("generated token {}: {}", step.index + 1, text);
  };
  if (!std::ranges::all_of(logits, [](float logit) { return std::isfinite(logit); }))
    fail("the logits of generated token {} are not finite", step.index + 1);
  const int32_t id = step.reference.id;
  const TokenLogprobs ours = token_logprobs(logits, id, 1);
  const TokenLogprob best = ours.top[0];
  ++report.tokens;
  if (best.token == id)
    ++report.equal;
  else if (best.logprob - ours.chosen.logprob <= 2 * step.tolerance)
    ++report.ties;
  else
    note(fmt::format("the reference chose {}, here it has log probability {:.5f} and {} has {:.5f}", id,
                     ours.chosen.logprob, best.token, best.logprob));
  for (const TokenLogprob& expected : step.reference.top) {
    const double got = token_logprobs(logits, expected.token, 0).chosen.logprob;
    const double difference = std::abs(got - expected.logprob);
    report.largest_difference = std::max(report.largest_difference, difference);
    if (!(difference <= step.tolerance))
      note(
          fmt::format("token {} has log probability {:.5f}, the reference {:.5f}: {:.5f} apart, tolerance {}",
                      expected.token, got, expected.logprob, difference, step.tolerance));
  }
}

// `chosen` holds the layers of the first call, then of the second, ...: one list a layer.
void compare_experts(const ChosenExperts& chosen, const ReferenceCase& reference, size_t layers,
                     CaseReport& report) {
  if (reference.experts.empty()) return;
  if (reference.experts.size() != layers)
    fail("case '{}' has the experts of {} layers, the model has {}", reference.name, reference.experts.size(),
         layers);
  for (size_t layer = 0; layer < layers; ++layer) {
    std::vector<int32_t> ids;
    for (size_t call = layer; call < chosen.size(); call += layers)
      ids.insert(ids.end(), chosen[call].span<int32_t>().begin(), chosen[call].span<int32_t>().end());
    ++report.layers;
    if (experts_hash(ids) == reference.experts[layer])
      ++report.equal_layers;
    else if (report.first_difference.empty())
      report.first_difference =
          fmt::format("other experts were chosen in MoE layer {} (counted from 1)", layer + 1);
  }
}

}  // namespace

std::string experts_hash(std::span<const int32_t> ids) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (int32_t id : ids)
    for (int shift = 0; shift < 32; shift += 8) {
      hash ^= static_cast<uint32_t>(id) >> shift & 0xff;
      hash *= 0x100000001b3u;
    }
  return fmt::format("{:016x}", hash);
}

Reference Reference::read(const fs::path& path, const std::string& config_json) {
  const std::string where = path.string();
  const json document = parse_json(read_file(path), where);
  expect_keys(document, {"format", "model", "made_by", "config", "tolerance", "cases"}, where);
  if (const std::string format = json_string(document, "format", where); format != kFormat)
    fail("{}: format is '{}', expected '{}'", where, format, kFormat);
  Reference reference{json_string(document, "model", where),
                      json_string(document, "made_by", where),
                      json_number(document, "tolerance", where),
                      {}};
  if (!(reference.tolerance > 0 && reference.tolerance < 10))
    fail("{}: tolerance is {}, expected more than 0 and less than 10", where, reference.tolerance);
  expect_config(json_object(document, "config", where), config_json, where);
  for (const json& object : json_array(document, "cases", where))
    reference.cases.push_back(case_of(object, fmt::format("{}: case {}", where, reference.cases.size() + 1)));
  if (reference.cases.empty()) fail("{}: has no cases", where);
  return reference;
}

void expect_fits(const ReferenceCase& reference, const deepseek::ModelConfig& config) {
  const auto expect_known = [&](int32_t token) {
    if (token >= config.vocab_size)
      fail("case '{}' has token {}, outside the vocabulary of {}", reference.name, token, config.vocab_size);
  };
  std::ranges::for_each(reference.prompt, expect_known);
  for (const ReferenceToken& token : reference.tokens) {
    expect_known(token.id);
    for (const TokenLogprob& top : token.top) expect_known(top.token);
  }
  const size_t tokens = reference.prompt.size() + reference.tokens.size();
  if (static_cast<int64_t>(tokens) > config.max_position_embeddings)
    fail("case '{}' has {} tokens, the model {} positions", reference.name, tokens,
         config.max_position_embeddings);
}

CaseReport verify_case(Engine& engine, const ReferenceCase& reference, double tolerance) {
  expect_fits(reference, engine.config());
  CaseReport report;
  ChosenExperts chosen;
  engine.truncate(0);
  engine.chosen = &chosen;
  // Whole, so that the experts of a layer lie together: prompts of references are short.
  Tensor state = engine.append_prompt(reference.prompt);
  for (size_t i = 0; i < reference.tokens.size(); ++i) {
    compare_token(engine.logits(state).span<float>(), {reference.tokens[i], i, tolerance}, report);
    if (i + 1 < reference.tokens.size()) state = engine.append_generated(reference.tokens[i].id);
  }
  engine.chosen = nullptr;
  const deepseek::ModelConfig& config = engine.config();
  const int64_t moe_layers =
      config.num_hidden_layers - std::min(config.first_k_dense_replace, config.num_hidden_layers);
  compare_experts(chosen, reference, static_cast<size_t>(moe_layers), report);
  return report;
}

}  // namespace moray
