// moray verify against tests/golden/inference, whose outputs come from PyTorch.
#include "serve/verify.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "backend/register.h"
#include "base/test_help.h"

namespace moray {
namespace {

using nlohmann::json;

// expected.json of a golden folder as a reference. Logits are on file for every fifth position; there all
// tokens are compared.
struct Golden {
  fs::path folder;
  json expected, reference;
  std::string config;

  explicit Golden(const std::string& name)
      : folder(fs::path(MORAY_SOURCE_DIR) / "tests/golden/inference" / name),
        expected(json::parse(read_file(folder / "expected.json"))),
        config(read_file(folder / "config.json")) {
    const auto prompt = static_cast<int64_t>(expected["prompt"].size());
    double largest = 0;
    for (const json& row : expected["logits"])
      for (const json& logit : row) largest = std::max(largest, std::abs(logit.get<double>()));
    json top = json::array(), experts = json::array();
    for (int64_t i = 0; i < static_cast<int64_t>(expected["greedy"].size()); ++i)
      top.push_back((prompt - 1 + i) % 5 == 0
                        ? logprobs(expected["logits"][static_cast<size_t>((prompt - 1 + i) / 5)])
                        : json());
    const json shape = json::parse(config);
    const size_t moe_layers =
        shape["num_hidden_layers"].get<size_t>() - shape["first_k_dense_replace"].get<size_t>();
    for (size_t i = 0; i < moe_layers; ++i) {  // an MTP module's follow
      const json& layer = expected["experts"][i];
      std::vector<int32_t> ids;
      for (size_t t = 0; t + 1 < layer.size(); ++t)
        for (const json& id : layer[t]) ids.push_back(id.get<int32_t>());
      experts.push_back(experts_hash(ids));
    }
    reference = {{"format", "moray reference 1"},
                 {"model", "golden/" + name},
                 {"made_by", "tests/golden/inference/write_golden.py"},
                 {"config", {{"hidden_size", shape["hidden_size"]}, {"q_lora_rank", shape["q_lora_rank"]}}},
                 {"tolerance", 2 * expected["tolerance"].get<double>() * largest},
                 {"cases", json::array({{{"name", "golden"},
                                         {"prompt", expected["prompt"]},
                                         {"greedy", expected["greedy"]},
                                         {"top", top},
                                         {"experts", experts}}})}};
  }

  static json logprobs(const json& row) {
    double sum = 0;
    for (const json& logit : row) sum += std::exp(logit.get<double>());
    json list = json::array();
    for (size_t v = 0; v < row.size(); ++v)
      list.push_back({v, std::min(0.0, row[v].get<double>() - std::log(sum))});
    return list;
  }

  Reference read() const {
    const test::ScratchFolder scratch;
    write_file_atomically(scratch / "reference.json", reference.dump());
    return Reference::read(scratch / "reference.json", config);
  }
  CaseReport verify(const Reference& of, DType cache = DType::f32) const {
    register_backends();
    Allocator allocator;
    ThreadPool pool(2);
    Exec exec{Device::cpu, &pool, &allocator, DType::f32};
    const SafetensorsFolder weights(folder);
    const ServedModel served = load_weights(
        exec, weights, plan_weights(weights, deepseek::ModelConfig::from_json(config, "config"), false));
    Engine engine(exec, served, {.cache_dtype = cache});
    return verify_case(engine, of.cases[0], of.tolerance);
  }
};

class VerifyGolden : public testing::TestWithParam<const char*> {};

TEST_P(VerifyGolden, Agrees) {
  const Golden golden(GetParam());
  const Reference reference = golden.read();
  const CaseReport report = golden.verify(reference);
  EXPECT_TRUE(report.agrees()) << report.first_difference;
  EXPECT_EQ(report.equal, static_cast<int64_t>(golden.expected["greedy"].size()));
  EXPECT_EQ(report.ties, 0);
  EXPECT_GT(report.layers, 0);
  EXPECT_EQ(report.equal_layers, report.layers);
  EXPECT_GT(report.largest_difference, 0);
}

INSTANTIATE_TEST_SUITE_P(Families, VerifyGolden,
                         testing::Values("v2-lite-f32", "v2-lite-fp8", "v2-f32", "v2-bf16", "v2-fp8",
                                         "v3-f32", "v3-fp8", "moonlight-f32", "moonlight-bf16",
                                         "moonlight-fp8", "kimi-k2-f32", "kimi-k2-bf16", "kimi-k2-fp8"));

TEST(Verify, NoticesAnotherEps) {
  for (const char* name : {"moonlight-f32", "kimi-k2-f32"})
    for (double eps : {1e-6, 1e-4}) {
      Golden golden(name);
      const Reference reference = golden.read();
      json config = json::parse(golden.config);
      config["rms_norm_eps"] = eps;
      golden.config = config.dump();
      EXPECT_FALSE(golden.verify(reference).agrees()) << name << ", " << eps;
    }
}

TEST(Verify, NamesTheFirstDifference) {
  const Golden golden("v3-f32");
  const Reference good = golden.read();
  Reference other = good;
  other.cases[0].tokens[3].id = (other.cases[0].tokens[3].id + 1) % 150;
  std::string told = golden.verify(other).first_difference;
  EXPECT_NE(told.find("generated token 4: the reference chose"), std::string::npos) << told;

  other = good;
  for (ReferenceToken& token : other.cases[0].tokens)
    if (!token.top.empty()) token.top[7].logprob -= 2 * other.tolerance;
  told = golden.verify(other).first_difference;
  EXPECT_NE(told.find("token 7 has log probability"), std::string::npos) << told;

  other = good;
  other.cases[0].experts[0] = experts_hash({});
  const CaseReport report = golden.verify(other);
  EXPECT_NE(report.first_difference.find("MoE layer 1"), std::string::npos) << report.first_difference;
  EXPECT_EQ(report.equal_layers, report.layers - 1);

  // Within the tolerance two tokens tie; here it is half their distance and a little.
  other = good;
  other.cases[0].experts.clear();
  ReferenceToken& third = other.cases[0].tokens[2];
  std::vector<TokenLogprob> top = third.top;
  std::ranges::sort(top, [](const auto& a, const auto& b) { return a.logprob > b.logprob; });
  third.id = top[1].token;
  other.cases[0].tokens.resize(3);
  const double half = (top[0].logprob - top[1].logprob) / 2;
  other.tolerance = half * 1.01;
  EXPECT_EQ(golden.verify(other).ties, 1);
  other.tolerance = half * 0.99;
  EXPECT_EQ(golden.verify(other).ties, 0);
}

// Eight bytes, "foobar" and two zeros, by a Python function that gives "foobar" its published
// 85944171f73967e8.
TEST(Verify, HashIsFnv1a) {
  EXPECT_EQ(experts_hash({}), "cbf29ce484222325");
  EXPECT_EQ(experts_hash(std::vector<int32_t>{'f' | 'o' << 8 | 'o' << 16 | 'b' << 24, 'a' | 'r' << 8}),
            "74c8e7eb4f245c28");
}

// One byte after another turned, taken away or doubled: read, or refused in words.
TEST(Verify, DamagedFilesAreReadOrRefused) {
  const test::ScratchFolder scratch;
  const fs::path file = scratch / "reference.json";
  const std::string whole =
      R"({"format": "moray reference 1", "model": "m", "made_by": "x", "config": {"hidden_size": 8}, "tolerance": 1e-3,
          "cases": [{"name": "a", "prompt": [1, 2], "greedy": [3], "top": [[[3, -0.5], [4, -1]]], "experts": ["0"]}]})";
  const auto reads = [&](const std::string& text) {
    std::ofstream(file, std::ios::trunc) << text;
    try {
      Reference::read(file, R"({"hidden_size": 8})");
      return true;
    } catch (const Error&) {
      return false;
    }
  };
  EXPECT_TRUE(reads(whole));
  int refused = 0;
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string turned = whole;
    turned[at] ^= static_cast<char>(1 << at % 8);
    for (const std::string& damaged :
         {turned, whole.substr(0, at) + whole.substr(at + 1),
          whole.substr(0, at) + whole[at] + whole.substr(at), whole.substr(0, at)})
      refused += !reads(damaged);
  }
  EXPECT_GT(refused, static_cast<int>(whole.size()));
}

TEST(Verify, RefusesMalformedFiles) {
  Golden golden("v3-f32");
  const json good = golden.reference;
  const auto refusal = [&](const std::function<void(json&)>& edit) {
    golden.reference = good;
    edit(golden.reference);
    return test::error_of([&] { golden.verify(golden.read()); });
  };
  const std::pair<const char*, std::function<void(json&)>> cases[] = {
      {"format is", [](json& r) { r["format"] = "other"; }},
      {"'surprise' is no key", [](json& r) { r["surprise"] = 1; }},
      {"tolerance is 0", [](json& r) { r["tolerance"] = 0; }},
      {"whose hidden_size is 7168, here it is", [](json& r) { r["config"]["hidden_size"] = 7168; }},
      {"no cases", [](json& r) { r["cases"] = json::array(); }},
      {"there are no tokens", [](json& r) { r["cases"][0]["prompt"] = json::array(); }},
      {"-1 is no token id", [](json& r) { r["cases"][0]["prompt"][0] = -1; }},
      {"outside the vocabulary", [](json& r) { r["cases"][0]["prompt"][0] = 1000000; }},
      {"outside the vocabulary", [](json& r) { r["cases"][0]["greedy"][0] = 1000000; }},
      {"top is of 1 tokens", [](json& r) { r["cases"][0]["top"] = json::array({json()}); }},
      {"is not [token, logprob]",
       [](json& r) {
         r["cases"][0]["top"][0] = json::array({json::array({1, 0.5})});
       }},
      {"experts of 3 layers",
       [](json& r) {
         r["cases"][0]["experts"] = {"a", "b", "c"};
       }},
      {"tokens, the model 256 positions",
       [](json& r) { r["cases"][0]["prompt"] = std::vector<int32_t>(300, 1); }},
  };
  for (const auto& [fragment, edit] : cases) {
    const std::string message = refusal(edit);
    EXPECT_NE(message.find(fragment), std::string::npos) << fragment << ": " << message;
  }
}

}  // namespace
}  // namespace moray
