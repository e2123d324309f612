// The engine against an independent implementation (tests/golden/inference), against training, and against
// itself in other chunks, threads and with a used cache.
#include "serve/engine.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>

#include "backend/register.h"
#include "base/random.h"
#include "ops/cross_entropy.h"
#include "ops/embedding.h"
#include "serve/random_model.h"
#include "serve/serving_need.h"

namespace moray {
namespace {

struct Machine {
  explicit Machine(int threads = 2) : pool(threads) { register_backends(); }
  Allocator allocator;
  ThreadPool pool;
  Exec exec{Device::cpu, &pool, &allocator, DType::f32};
};

struct Golden {
  fs::path folder;
  nlohmann::json expected;
  deepseek::ModelConfig config;

  explicit Golden(const std::string& name)
      : folder(fs::path(MORAY_SOURCE_DIR) / "tests/golden/inference" / name),
        expected(nlohmann::json::parse(read_file(folder / "expected.json"))),
        config(deepseek::ModelConfig::from_json(read_file(folder / "config.json"), name)) {}

  ServedModel load(Exec& exec, bool with_mtp = false) const {
    const SafetensorsFolder weights(folder);
    return load_weights(exec, weights, plan_weights(weights, config, with_mtp));
  }
  std::vector<int32_t> ids(const char* key) const { return expected[key].get<std::vector<int32_t>>(); }
  std::vector<int32_t> all_ids() const {
    std::vector<int32_t> all = ids("prompt");
    for (int32_t id : ids("greedy")) all.push_back(id);
    return all;
  }
};

int32_t greedy(const Tensor& logits) {
  const auto row = logits.span<float>();
  return static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin());
}

// Every fifth row of the whole sequence is on file.
constexpr int64_t kRecordedEvery = 5;

// |got − expected| relative to the largest expected logit, over the recorded rows from `first` on; rows_TV
// begins at position `first`.
double logit_error(const nlohmann::json& recorded, const Tensor& rows_TV, int64_t first) {
  double most = 0, error = 0;
  for (size_t i = 0; i < recorded.size(); ++i) {
    const int64_t position = static_cast<int64_t>(i) * kRecordedEvery;
    const auto row = recorded[i].get<std::vector<double>>();
    for (size_t v = 0; v < row.size(); ++v) {
      most = std::max(most, std::abs(row[v]));
      if (position < first || position >= first + rows_TV.extent(0)) continue;
      const double got = rows_TV.row(position - first).data<float>()[v];
      error = std::max(error, std::abs(got - row[v]));
    }
  }
  return error / most;
}

class EngineGolden : public testing::TestWithParam<const char*> {};
class EngineMtp : public testing::TestWithParam<const char*> {};

TEST_P(EngineGolden, PromptLogitsAndExperts) {
  const Golden golden(GetParam());
  Machine machine;
  const ServedModel served = golden.load(machine.exec);
  Engine engine(machine.exec, served, {.cache_dtype = DType::f32, .chunk_tokens = 1000});
  ChosenExperts chosen;
  engine.chosen = &chosen;
  Tensor states;
  engine.append_prompt(golden.all_ids(), [&](int64_t, const Tensor& all) { states = all; });
  EXPECT_LT(logit_error(golden.expected["logits"], engine.logits(states), 0), golden.expected["tolerance"]);
  for (size_t layer = 0; layer < chosen.size(); ++layer)
    for (int64_t t = 0; t < states.extent(0); ++t)
      EXPECT_TRUE(std::ranges::equal(
          chosen[layer].row(t).span<int32_t>(),
          golden.expected["experts"][layer][static_cast<size_t>(t)].get<std::vector<int32_t>>()))
          << "layer " << layer << ", position " << t;
}

TEST_P(EngineGolden, GreedyTokensWithEitherCache) {
  const Golden golden(GetParam());
  Machine machine;
  const ServedModel served = golden.load(machine.exec);
  for (DType cache : {DType::f32, DType::bf16}) {
    const bool exact = golden.folder.string().ends_with("f32");
    if (exact && cache == DType::bf16) continue;  // its gaps allow for F32's tolerance alone
    Engine engine(machine.exec, served, {.cache_dtype = cache});
    Tensor state = engine.append_prompt(golden.ids("prompt"));
    std::vector<int32_t> tokens;
    for (size_t i = 0; i < golden.ids("greedy").size(); ++i) {
      const Tensor logits = engine.logits(state);
      const double error = logit_error(golden.expected["logits"], logits, engine.length() - 1);
      EXPECT_LT(error, golden.expected["tolerance"].get<double>() * (cache == DType::f32 ? 1 : 10));
      tokens.push_back(greedy(logits));
      state = engine.append_generated(tokens.back());
    }
    EXPECT_EQ(tokens, golden.ids("greedy")) << dtype_name(cache);
  }
}

// How far narrower caches move the logits, beside the largest; prompt and generated tokens. Latents of 20 to
// 36 numbers are worse off than those of 512. Measured: see docs/results/cache-forms.txt.
TEST_P(EngineGolden, NarrowCachesAreNear) {
  const Golden golden(GetParam());
  Machine machine;
  const ServedModel served = golden.load(machine.exec);
  constexpr std::pair<DType, double> kForms[] = {{DType::bf16, 0.02}, {DType::f8_e4m3, 0.1}};
  for (const auto& [cache, most] : kForms) {
    Engine engine(machine.exec, served, {.cache_dtype = cache});
    Tensor state = engine.append_prompt(golden.ids("prompt"));
    double error = 0;
    for (int32_t id : golden.ids("greedy")) {
      error =
          std::max(error, logit_error(golden.expected["logits"], engine.logits(state), engine.length() - 1));
      state = engine.append_generated(id);
    }
    EXPECT_LT(error, most) << dtype_name(cache);
    EXPECT_GT(error, 0);
    RecordProperty("largest logit difference, " + std::string(dtype_name(cache)), std::to_string(error));
  }
}

TEST_P(EngineMtp, Logits) {
  const Golden golden(GetParam());
  Machine machine;
  Exec& exec = machine.exec;
  const ServedModel served = golden.load(exec, /*with_mtp=*/true);
  Engine engine(exec, served, {.cache_dtype = DType::f32, .chunk_tokens = 1000});
  Tensor states;
  std::vector<int32_t> ids = golden.all_ids();
  engine.append_prompt(ids, [&](int64_t, const Tensor& all) { states = all; });
  ids.erase(ids.begin());
  const auto count = static_cast<int64_t>(ids.size());
  LatentCache cache(golden.config, 1, DType::f32);
  cache.reserve(count, count);
  const RopeTable rope = deepseek::make_rope_table(exec, golden.config, count);
  const Tensor mtp_states =
      mtp_forward(exec, served.model.mtp[0], served.scales.mtp[0], 0, states.rows(0, count),
                  embed(exec, served.model.embed_tokens_VD, ids), {0, AttentionForm::expanded, rope, cache});
  EXPECT_LT(logit_error(golden.expected["mtp_logits"], engine.logits(mtp_states), 0),
            golden.expected["tolerance"]);
}

INSTANTIATE_TEST_SUITE_P(Families, EngineGolden,
                         testing::Values("v2-lite-f32", "v2-lite-bf16", "v2-lite-fp8", "v2-f32", "v2-bf16",
                                         "v2-fp8", "v3-f32", "v3-bf16", "v3-fp8", "moonlight-f32",
                                         "moonlight-bf16", "moonlight-fp8", "kimi-k2-f32", "kimi-k2-bf16",
                                         "kimi-k2-fp8"));

INSTANTIATE_TEST_SUITE_P(Families, EngineMtp, testing::Values("v3-f32", "v3-bf16", "v3-fp8"));

// The goldens tell rms_norm_eps, here 1e-5, from the 1e-6 of the norms of latents.
TEST(Goldens, SeeTheEpsOfEveryNorm) {
  for (const char* name : {"moonlight-f32", "kimi-k2-f32"}) {
    const Golden golden(name);
    Machine machine;
    const auto error_with = [&](const std::function<void(deepseek::Block&)>& change) {
      ServedModel served = golden.load(machine.exec);
      std::ranges::for_each(served.model.layers, change);
      Engine engine(machine.exec, served, {.cache_dtype = DType::f32});
      Tensor states;
      engine.append_prompt(golden.all_ids(), [&](int64_t, const Tensor& all) { states = all; });
      return logit_error(golden.expected["logits"], engine.logits(states), 0);
    };
    const double tolerance = golden.expected["tolerance"];
    EXPECT_LT(error_with([](deepseek::Block&) {}), tolerance) << name;
    EXPECT_GT(error_with([](deepseek::Block& b) { b.input_layernorm.eps = 1e-6; }), 2 * tolerance) << name;
    EXPECT_GT(error_with([](deepseek::Block& b) { b.input_layernorm.eps = 1e-4; }), 10 * tolerance) << name;
    EXPECT_GT(error_with([](deepseek::Block& b) { b.self_attn.kv_a_layernorm.eps = 1e-5; }), 2 * tolerance)
        << name;
    if (golden.config.q_lora_rank > 0) {
      EXPECT_GT(error_with([](deepseek::Block& b) { b.self_attn.q_a_layernorm.eps = 1e-5; }), 2 * tolerance)
          << name;
    }
  }
}

deepseek::ModelConfig small_config() {
  deepseek::ModelConfig config = Golden("v3-f32").config;
  config.num_nextn_predict_layers = 0;
  config.max_position_embeddings = 2048;
  config.initializer_range = 0.2;
  config.hidden_size = 48;  // whole panels, but for the dense MLP
  config.moe_intermediate_size = 16;
  config.vocab_size = 160;
  return config;
}

std::vector<int32_t> random_ids(int64_t count, int64_t vocabulary) {
  Random random(3, 1);
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i)
    ids.push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(vocabulary))));
  return ids;
}

// The experts of each MoE layer, token after token, of an engine's calls: each call has all layers.
using ExpertsOfLayers = std::vector<std::vector<int32_t>>;

ExpertsOfLayers by_layer(const ChosenExperts& calls, const deepseek::ModelConfig& config) {
  ExpertsOfLayers layers(static_cast<size_t>(config.num_hidden_layers - config.first_k_dense_replace));
  for (size_t i = 0; i < calls.size(); ++i) {
    const std::span<const int32_t> ids = calls[i].span<int32_t>();
    layers[i % layers.size()].insert(layers[i % layers.size()].end(), ids.begin(), ids.end());
  }
  return layers;
}

// A sequence as training computes it: states, the log probability of each next token, experts.
struct Trained {
  Tensor states_TD;
  std::vector<float> logprobs;
  ExpertsOfLayers experts;

  Trained(Exec& exec, const deepseek::Model& model, std::span<const int32_t> ids) {
    const auto count = static_cast<int64_t>(ids.size()) - 1;
    const Tensor ids_T = exec.empty_i32({count}), targets_T = exec.empty_i32({count}),
                 loss_T = exec.empty({count});
    std::copy_n(ids.begin(), count, ids_T.data<int32_t>());
    std::copy_n(ids.begin() + 1, count, targets_T.data<int32_t>());
    const SampleRows rows{.samples = 1, .rows_per_sample = count};
    const RopeTable rope = deepseek::make_rope_table(exec, model.config, count);
    states_TD = deepseek::hidden_states(exec, model, ids_T, rows, rope);
    cross_entropy_forward(exec, states_TD, model.lm_head_VD, targets_T, loss_T);
    for (float loss : loss_T.span<float>()) logprobs.push_back(-loss);
    choose(exec, model, ids_T, {rows, {1, count, {}}, rope});
  }
  void choose(Exec& exec, const deepseek::Model& model, const Tensor& ids_T, const LayerContext& context) {
    Tensor x_TD = exec.empty({ids_T.extent(0), model.config.hidden_size});
    embedding_forward(exec, ids_T, model.embed_tokens_VD, x_TD);
    deepseek::RoutingStats stats;
    stats.load.resize(static_cast<size_t>(model.config.n_routed_experts));
    ChosenExperts chosen;
    for (const deepseek::Block& block : model.layers) {
      deepseek::Block::Saved saved;
      x_TD = block.forward(exec, x_TD, context, saved, stats);
      if (block.is_moe) chosen.push_back(saved.gate.ids_TK);
    }
    experts = by_layer(chosen, model.config);
  }
};

// Sequences beyond two blocks of 128 positions, in attention and in the head.
constexpr int64_t kTrainedTokens = 400;

TEST(Engine, PromptsHaveTrainingsBits) {
  Machine machine;
  Exec& exec = machine.exec;
  deepseek::Model model = deepseek::allocate_model(exec, small_config());
  deepseek::initialize(exec, model, 5);
  const std::vector<int32_t> ids = random_ids(kTrainedTokens + 1, model.config.vocab_size);
  const Trained trained(exec, model, ids);

  const auto expect_trained_bits = [&](const ServedModel& served) {
    Engine engine(exec, served, {.cache_dtype = DType::f32, .chunk_tokens = 77});
    ChosenExperts chosen;
    engine.chosen = &chosen;
    std::vector<float> logprobs;
    engine.append_prompt(std::span(ids).first(kTrainedTokens), [&](int64_t first, const Tensor& states) {
      EXPECT_TRUE(std::ranges::equal(states.span<float>(),
                                     trained.states_TD.rows(first, first + states.extent(0)).span<float>()));
      for (float logprob :
           engine.logprobs(states, {ids.data() + first + 1, static_cast<size_t>(states.extent(0))}))
        logprobs.push_back(logprob);
    });
    EXPECT_EQ(logprobs, trained.logprobs);
    EXPECT_EQ(by_layer(chosen, model.config), trained.experts);
  };
  ServedModel served = serve_trained(model);
  expect_trained_bits(served);
  pack_weights(exec, served);  // where they are: `model` is lost
  EXPECT_EQ(served.model.layers[1].experts.up_proj_EFD.layout(), TensorLayout::panels);
  expect_trained_bits(served);
}

// Numerics, "Training and inference agree": the same experts, and generated tokens within 1e-5 in mean
// absolute value.
TEST(Engine, GeneratedTokensAgreeWithTraining) {
  Machine machine;
  deepseek::Model model = deepseek::allocate_model(machine.exec, small_config());
  deepseek::initialize(machine.exec, model, 6);
  const std::vector<int32_t> ids = random_ids(kTrainedTokens + 1, model.config.vocab_size);
  const Trained trained(machine.exec, model, ids);
  const ServedModel served = serve_trained(model);
  Engine engine(machine.exec, served, {.cache_dtype = DType::f32});
  ChosenExperts chosen;
  engine.chosen = &chosen;
  const size_t prompt = 20;
  engine.append_prompt(std::span(ids).first(prompt));
  double difference = 0;
  for (size_t i = prompt; i < trained.logprobs.size(); ++i) {
    const Tensor state = engine.append_generated(ids[i]);
    difference += std::abs(engine.logprobs(state, {ids.data() + i + 1, 1})[0] - trained.logprobs[i]);
  }
  EXPECT_LT(difference / static_cast<double>(trained.logprobs.size() - prompt), 1e-5);
  EXPECT_GT(difference, 0);  // the forms do round differently
  EXPECT_EQ(by_layer(chosen, model.config), trained.experts);
}

// States of a prompt, then of generated tokens.
std::vector<float> all_states(Engine& engine, std::span<const int32_t> prompt,
                              std::span<const int32_t> more) {
  std::vector<float> all;
  const auto keep = [&](const Tensor& states) {
    all.insert(all.end(), states.span<float>().begin(), states.span<float>().end());
  };
  engine.append_prompt(prompt, [&](int64_t, const Tensor& states) { keep(states); });
  for (int32_t id : more) keep(engine.append_generated(id));
  return all;
}

TEST(Engine, ChunksThreadsAndUsedCachesDoNotMatter) {
  constexpr std::pair<const char*, DType> kCases[] = {
      {"v3-fp8", DType::bf16}, {"v2-bf16", DType::bf16}, {"v2-bf16", DType::f8_e4m3}};
  for (const auto& [name, cache] : kCases) {
    const Golden golden(name);
    const std::vector<int32_t> ids = random_ids(160, golden.config.vocab_size);
    const std::span<const int32_t> prompt(ids.data(), 150), more(ids.data() + 150, 10);
    std::vector<float> expected;
    for (int threads : {1, 2, 3})
      for (int64_t chunk : {1000, 128, 13}) {
        Machine machine(threads);
        const ServedModel served = golden.load(machine.exec);
        Engine engine(machine.exec, served, {.cache_dtype = cache, .chunk_tokens = chunk});
        const std::vector<float> states = all_states(engine, prompt, more);
        if (expected.empty()) expected = states;
        EXPECT_EQ(states, expected) << threads << " threads, chunks of " << chunk;
        // Again from the middle, over what the first run left.
        EXPECT_EQ(engine.keep_prefix(prompt.first(100)), 99);
        const std::vector<float> again = all_states(engine, prompt.subspan(99), more);
        const auto width = static_cast<size_t>(golden.config.hidden_size);
        EXPECT_TRUE(
            std::equal(again.begin(), again.end(), expected.begin() + static_cast<int64_t>(99 * width)));
      }
  }
}

// However few heads a chunk expands at a time.
TEST(Engine, HeadsInGroupsHaveTheSameBits) {
  for (const char* name : {"v3-fp8", "v2-bf16"}) {
    const Golden golden(name);
    const std::vector<int32_t> ids = random_ids(150, golden.config.vocab_size);
    Machine machine;
    const ServedModel served = golden.load(machine.exec);
    const MlaShape shape = golden.config.mla();
    const int64_t head_bytes = 256 * (shape.qk_nope_head_dim + shape.v_head_dim) * 4;
    Engine whole(machine.exec, served, {.chunk_tokens = 40});
    const std::vector<float> expected = all_states(whole, ids, {});
    for (int64_t heads : {1, 3}) {
      EXPECT_EQ(expanded_heads_at_once(shape, 256, heads * head_bytes + 1), heads);
      Engine engine(machine.exec, served, {.chunk_tokens = 40, .expanded_bytes = heads * head_bytes + 1});
      EXPECT_EQ(all_states(engine, ids, {}), expected) << name << ", " << heads << " heads at a time";
    }
  }
}

// What inspect promises: a prompt as long as the context, then tokens, in no more than working_bytes() beside
// weights and cache.
TEST(Engine, WorksInThePromisedMemory) {
  deepseek::ModelConfig config = small_config();
  config.hidden_size = 64;
  for (int64_t context : {300, 2000})
    for (int64_t chunk : {64, 512}) {
      Machine machine;
      const ServedModel served = random_model(machine.exec, config, DType::bf16);
      const size_t before = machine.allocator.held_bytes();
      Engine engine(machine.exec, served, {.chunk_tokens = chunk, .context_tokens = context});
      Tensor state = engine.append_prompt(random_ids(context - 8, config.vocab_size));
      for (int i = 0; i < 8; ++i) {
        engine.logits(state);
        state = engine.append_generated(i);
      }
      const size_t worked = machine.allocator.held_bytes() - before;
      const size_t promised = working_bytes(config, chunk, context);
      EXPECT_LE(worked, promised) << "context " << context << ", chunk " << chunk;
      EXPECT_GT(worked, promised / 3) << "context " << context << ", chunk " << chunk;
    }
}

// Chunks that follow each other take the memory of those before, however far the prompt has come.
TEST(Engine, ALongPromptTakesNoMoreMemoryAsItGoesOn) {
  constexpr int64_t kTokens = 8192;  // whole chunks
  deepseek::ModelConfig config = small_config();
  config.num_hidden_layers = 1;
  config.max_position_embeddings = kTokens;
  for (const DType dtype : {DType::f32, DType::bf16, DType::f8_e4m3, DType::i8}) {
    Machine machine;
    const ServedModel served = random_model(machine.exec, config, dtype);
    Engine engine(machine.exec, served, {.chunk_tokens = 256});
    size_t held_halfway = 0;
    engine.append_prompt(random_ids(kTokens, config.vocab_size), {}, [&](int64_t tokens) {
      if (held_halfway == 0 && tokens >= kTokens / 2) held_halfway = machine.allocator.held_bytes();
      return true;
    });
    EXPECT_LE(machine.allocator.held_bytes(), held_halfway) << dtype_name(dtype);
  }
}

TEST(Engine, GeneratedTokensAreNotReusedAsPrompt) {
  const Golden golden("v3-bf16");
  Machine machine;
  const ServedModel served = golden.load(machine.exec);
  Engine engine(machine.exec, served, {});
  engine.append_prompt(golden.ids("prompt"));
  for (int32_t id : golden.ids("greedy")) engine.append_generated(id);
  EXPECT_EQ(engine.keep_prefix(golden.all_ids()), static_cast<int64_t>(golden.ids("prompt").size()));
}

TEST(Engine, APromptCanBeStoppedAndGoesOn) {
  const Golden golden("v3-bf16");
  Machine machine;
  const ServedModel served = golden.load(machine.exec);
  const std::vector<int32_t> ids = random_ids(50, golden.config.vocab_size);
  Engine whole(machine.exec, served, {}), engine(machine.exec, served, {.chunk_tokens = 20});
  const Tensor expected = whole.append_prompt(ids);
  std::vector<int64_t> told;
  const auto stop_late = [&](int64_t tokens) {
    told.push_back(tokens);
    return tokens < 30;
  };
  EXPECT_FALSE(engine.append_prompt(ids, {}, stop_late).defined());
  EXPECT_EQ(told, (std::vector<int64_t>{10, 20, 30})) << "two layers a chunk";
  EXPECT_EQ(engine.length(), 20) << "whole chunks stay";
  EXPECT_EQ(engine.keep_prefix(ids), 20);
  const Tensor state = engine.append_prompt(std::span(ids).subspan(20));
  EXPECT_TRUE(std::ranges::equal(state.span<float>(), expected.span<float>()));
}

TEST(Engine, RefusesWhatDoesNotFit) {
  const Golden golden("v3-bf16");
  Machine machine;
  const ServedModel served = golden.load(machine.exec);
  EXPECT_THROW(Engine(machine.exec, served, {.context_tokens = 257}), Error);
  EXPECT_THROW(Engine(machine.exec, served, {.chunk_tokens = 0}), Error);
  Engine engine(machine.exec, served, {.context_tokens = 20});
  EXPECT_THROW(engine.append_prompt(golden.ids("prompt")), Error);
  EXPECT_THROW(engine.append_prompt({}), Error);
  EXPECT_THROW(engine.append_prompt(std::vector<int32_t>{-1}), Error);
}

}  // namespace
}  // namespace moray
