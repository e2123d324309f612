#include "workshop.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/random.h"
#include "checkpoint/checkpoint.h"

namespace moray::test {

namespace {

constexpr const char* kRecipe = R"(
[model]
vocab_size = 400
hidden_size = 32
num_hidden_layers = 2
first_k_dense_replace = 1
intermediate_size = 48
moe_intermediate_size = 16
n_routed_experts = 8
num_experts_per_tok = 2
n_shared_experts = 1
n_group = 4
topk_group = 2
routed_scaling_factor = 2.5
num_attention_heads = 2
q_lora_rank = 16
kv_lora_rank = 16
qk_nope_head_dim = 8
qk_rope_head_dim = 8
v_head_dim = 8
max_position_embeddings = 64
num_nextn_predict_layers = 1
initializer_range = 0.02

[data]
dataset = "DATASET"
fim_rate = 0.1
newline_split_rate = 0.1

[train]
tokens = TOKENS
sequence_length = 32
batch_size = 8
micro_batch = 4
learning_rate = [
  { until_tokens = 1024, shape = "linear", to = 3e-3 },
  { until_tokens = TOKENS, shape = "cosine", to = 3e-4 },
]
ema_decay = 0.9

[run]
validation_interval_steps = 6
validation_tokens = 256
checkpoint_interval_steps = 5
)";

std::string replaced(std::string text, const std::string& what, const std::string& with) {
  for (size_t at; (at = text.find(what)) != std::string::npos;) text.replace(at, what.size(), with);
  return text;
}

// Words from a few syllables, so that there is something to learn; documents of a few lines.
void write_corpus(const fs::path& folder) {
  constexpr const char* kSyllables[] = {"mo", "ray", "ne", "ka", "lu", "ti",
                                        "é",  "ß",   "海", "wa", "sh", "or"};
  fs::create_directory(folder);
  for (uint64_t document = 0; document < 150; ++document) {
    Random random(7, document);
    std::string text;
    for (uint64_t word = 0, words = 40 + random.below(80); word < words; ++word) {
      for (uint64_t part = 0, parts = 1 + random.below(3); part < parts; ++part)
        text += kSyllables[random.below(1 + random.below(std::size(kSyllables)))];
      text += random.below(8) == 0 ? ".\n" : " ";
    }
    write_file_atomically(folder / fmt::format("{:03}.txt", document), text);
  }
}

void expect_success(const Outcome& outcome) {
  MORAY_CHECK(outcome.status == 0, "{}{}", outcome.out, outcome.err);
}

}  // namespace

const Workshop& Workshop::get() {
  static const Workshop workshop;
  return workshop;
}

Workshop::Workshop()
    : corpus_(scratch_ / "corpus"),
      tokenizer_(scratch_ / "tokenizer"),
      dataset_(scratch_ / "dataset"),
      recipe_(scratch_ / "recipe.toml"),
      trained_(scratch_ / "trained") {
  write_corpus(corpus_);
  expect_success(
      moray({"tokenizer", "train", "--corpus", corpus_, "--vocab-size", "384", "--output", tokenizer_}));
  expect_success(moray({"data", "build", "--corpus", corpus_, "--tokenizer", tokenizer_, "--held-out", "0.1",
                        "--output", dataset_}));
  const std::string tokens = std::to_string(kSteps * kBatch * kSequence);
  write_file_atomically(recipe_, replaced(replaced(kRecipe, "DATASET", dataset_), "TOKENS", tokens));
  expect_success(moray(train(trained_)));
}

Invocation Workshop::train(const fs::path& run, const std::vector<std::string>& settings) const {
  Invocation invocation{{"train", recipe_, "--json", "--run", run}};
  for (const std::string& setting : settings) {
    invocation.arguments.push_back("--set");
    invocation.arguments.push_back(setting);
  }
  return invocation;
}

std::string json_value(const std::string& out, const std::string& key) {
  const auto json = nlohmann::json::parse(out, nullptr, false);
  if (!json.is_object() || !json.contains(key)) {
    ADD_FAILURE() << "no JSON object with '" << key << "': " << out;
    return "";
  }
  return json[key].dump();
}

std::map<std::string, std::string> weights_of(const fs::path& run) {
  std::map<std::string, std::string> weights;
  const auto checkpoint = latest_checkpoint(run / "checkpoints");
  if (!checkpoint) {
    ADD_FAILURE() << run << " has no checkpoint";
    return weights;
  }
  for (auto& [name, bytes] : content_of(*checkpoint))
    if (name.ends_with(".safetensors")) weights.emplace(name, bytes);
  EXPECT_GE(weights.size(), 3u) << "weights and two moments";
  return weights;
}

std::vector<std::string> metrics_of(const fs::path& run) {
  std::vector<std::string> rows;
  for (const std::string& line : lines_of(read_file(run / "metrics.jsonl"))) {
    auto json = nlohmann::ordered_json::parse(line);
    json.erase("tokens_per_second");
    json.erase("peak_memory_bytes");
    rows.push_back(json.dump());
  }
  for (const std::string& line : lines_of(read_file(run / "expert_load.jsonl"))) rows.push_back(line);
  return rows;
}

std::map<std::string, std::string> content_of(const fs::path& folder) {
  std::map<std::string, std::string> content;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file()) content[fs::relative(entry.path(), folder)] = read_file(entry.path());
  return content;
}

void copy_folder(const fs::path& from, const fs::path& to) {
  fs::copy(from, to, fs::copy_options::recursive);
}

void flip_byte(const fs::path& file, int64_t position) {
  std::string content = read_file(file);
  content.at(
      static_cast<size_t>(position < 0 ? position + static_cast<int64_t>(content.size()) : position)) ^= 0x10;
  write_file_atomically(file, content);
}

void expect_refusal(const Outcome& outcome, const std::vector<std::string>& fragments, bool after_info) {
  const std::vector<std::string> lines = lines_of(outcome.err);
  EXPECT_TRUE(outcome.status > 0 && outcome.status < 126) << outcome.status << "\n" << outcome.err;
  EXPECT_EQ(outcome.out, "");
  ASSERT_FALSE(lines.empty());
  if (!after_info) {
    EXPECT_EQ(lines.size(), 1u) << outcome.err;
  }
  EXPECT_TRUE(lines.back().starts_with("moray: ")) << outcome.err;
  for (const std::string& fragment : fragments)
    EXPECT_NE(lines.back().find(fragment), std::string::npos)
        << "'" << fragment << "' is not in: " << lines.back();
}

}  // namespace moray::test
