// A user's mistake, a damaged file, a full disk: one clear line, a non-zero status, nothing lost.
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint.h"
#include "workshop.h"

namespace moray::test {
namespace {

using Fragments = std::vector<std::string>;

struct BadSetting {
  std::string setting;
  Fragments fragments;
};

TEST(BadRecipe, NamesTheKeyAndTheValue) {
  const BadSetting cases[] = {
      {"train.sequence_lenght=32", {"sequence_lenght", "sequence_length"}},
      {"modle.hidden_size=32", {"modle"}},
      {"train.adamw.beta3=0.9", {"beta3", "beta"}},
      {"no equals sign", {"no equals sign"}},
      {"=3", {"=3"}},
      {"model=3", {"model"}},
      {"model.hidden_size=0", {"hidden_size is 0"}},
      {"model.hidden_size=-1", {"hidden_size is -1"}},
      {"model.hidden_size=many", {"hidden_size", "many"}},
      {"model.hidden_size=32.5", {"hidden_size", "32.5"}},
      {"model.num_attention_heads=0", {"num_attention_heads"}},
      {"model.qk_rope_head_dim=7", {"qk_rope_head_dim is 7", "even"}},
      {"model.n_group=3", {"n_routed_experts is 8", "n_group = 3"}},
      {"model.topk_group=5", {"topk_group is 5"}},
      {"model.num_experts_per_tok=5", {"num_experts_per_tok is 5"}},
      {"model.scoring_func=relu", {"scoring_func", "relu"}},
      {"model.rms_norm_eps=0", {"rms_norm_eps"}},
      {"model.vocab_size=100", {"384", "vocab_size is 100", "--set model.vocab_size=384"}},
      {"model.hidden_size=1000000000000", {"hidden_size is 1000000000000"}},
      {"train.tokens=0", {"train.tokens", "0"}},
      {"train.sequence_length=65", {"sequence_length", "65", "max_position_embeddings = 64"}},
      {"train.batch_size=0", {"batch_size"}},
      {"train.micro_batch=0", {"micro_batch"}},
      {"train.gradient_groups=0", {"gradient_groups"}},
      {"train.gradient_groups=1000000000000000", {"memory"}},
      {"train.adamw.beta1=1", {"beta1"}},
      {"train.adamw.moments=f64", {"moments", "f64"}},
      {"train.ema_decay=1.5", {"ema_decay"}},
      {"model.num_hidden_layers=2147483648", {"num_hidden_layers is 2147483648"}},
      {"model.num_nextn_predict_layers=2147483648", {"num_nextn_predict_layers"}},
      {"model.initializer_range=nan", {"initializer_range"}},
      {"model.routed_scaling_factor=nan", {"routed_scaling_factor"}},
      {"train.learning_rate=nan", {"learning_rate", "nan"}},
      {"train.learning_rate=-1", {"learning_rate", "-1"}},
      {"train.learning_rate=[]", {"learning_rate", "no phase"}},
      {"train.mtp_loss_weight=nan", {"mtp_loss_weight"}},
      {"train.balance_loss_alpha=inf", {"balance_loss_alpha"}},
      {"train.adamw.eps=-1", {"eps"}},
      {"train.adamw.weight_decay=nan", {"weight_decay"}},
      {"train.batch_multiple=1000000000000", {"batch_multiple"}},
      {"run.keep_last=0", {"keep_last"}},
      {"run.model_dtype=int8", {"model_dtype", "int8"}},
      {"data.fim_rate=0.5", {"fim_rate 0.1", "0.5"}},
      {"data.fim_rate=2", {"fim_rate"}},
      {"data.dataset=nowhere", {"nowhere", "moray data build"}},
  };
  const ScratchFolder scratch;
  for (const BadSetting& bad : cases) {
    SCOPED_TRACE(bad.setting);
    expect_refusal(moray(Workshop::get().train(scratch / "run", {bad.setting})), bad.fragments);
    EXPECT_FALSE(fs::exists(scratch / "run" / "metrics.jsonl"));
  }
}

TEST(BadRecipe, ShapesBeyondAllMemoryAreRefused) {
  const ScratchFolder scratch;
  const std::vector<std::string> shapes = {"model.vocab_size=1048576", "model.hidden_size=262144"};
  expect_refusal(moray(Workshop::get().train(scratch / "run", shapes)), {"memory"});
  expect_refusal(moray(Workshop::get().train(scratch / "run", {"model.vocab_size=2147483648"})),
                 {"vocab_size"});
}

TEST(BadRecipe, FilesThatAreNone) {
  const ScratchFolder scratch;
  expect_refusal(moray({"train", scratch / "none.toml"}), {"none.toml"});
  const std::string recipes = MORAY_SOURCE_DIR "/recipes/";
  expect_refusal(moray({"inspect", recipes + "plan-v3-2048-h800.toml"}),
                 {"is a plan", "moray plan " + recipes + "plan-v3-2048-h800.toml"});
  expect_refusal(moray({"inspect", recipes + "plan-v3-serving.toml"}), {"is a plan", "moray plan serve"});
  expect_refusal(moray({"train", scratch.path()}), {scratch.path().string()});
  write_file_atomically(scratch / "bad.toml", "[model\nhidden_size = 3");
  expect_refusal(moray({"train", scratch / "bad.toml"}), {"bad.toml:1"});
  write_file_atomically(scratch / "empty.toml", "");
  expect_refusal(moray({"train", scratch / "empty.toml"}), {"model."});
}

TEST(BadRun, FolderCannotBeMade) {
  const ScratchFolder scratch;
  write_file_atomically(scratch / "file", "in the way");
  expect_refusal(moray(Workshop::get().train(scratch / "file" / "run")), {"file/run"});
  EXPECT_EQ(read_file(scratch / "file"), "in the way");
}

// Each damage to a copy of the dataset must be noticed, with the file's name.
TEST(BadDataset, EveryDamageIsNoticed) {
  const Workshop& workshop = Workshop::get();
  const ScratchFolder scratch;
  int copies = 0;
  const auto damaged = [&](const std::string& file, const auto& damage) {
    SCOPED_TRACE(file);
    const fs::path dataset = scratch / std::to_string(copies++);
    copy_folder(workshop.dataset(), dataset);
    damage(dataset / file);
    const std::string setting = "data.dataset=" + dataset.string();
    expect_refusal(moray(workshop.train(scratch / "run", {setting})), {dataset.string()});
  };
  for (const auto& [name, content] : content_of(workshop.dataset())) {
    const auto size = static_cast<int64_t>(content.size());
    if (name == "tokenizer_config.json") continue;  // names control tokens; in no checksum
    damaged(name, [](const fs::path& file) { fs::remove(file); });
    damaged(name, [](const fs::path& file) { write_file_atomically(file, ""); });
    damaged(name, [&](const fs::path& file) { fs::resize_file(file, content.size() / 2); });
    for (int64_t part = 1; part < 8; ++part)
      damaged(name, [&](const fs::path& file) { flip_byte(file, size * part / 8); });
  }
}

TEST(BadDataset, OfAnotherTokenizer) {
  const Workshop& workshop = Workshop::get();
  const ScratchFolder scratch;
  ASSERT_EQ(moray({"tokenizer", "train", "--corpus", workshop.corpus(), "--vocab-size", "300", "--output",
                   scratch / "t"})
                .status,
            0);
  ASSERT_EQ(moray({"data", "build", "--corpus", workshop.corpus(), "--tokenizer", scratch / "t", "--held-out",
                   "0.1", "--output", scratch / "d"})
                .status,
            0);
  expect_refusal(moray({"eval", "--model", workshop.trained(), "--data", scratch / "d"}),
                 {"another tokenizer"});
  const fs::path run = scratch / "run";
  copy_folder(workshop.trained(), run);
  Invocation resume = workshop.train(run, {"data.dataset=" + (scratch / "d").string(), "train.tokens=6144"});
  resume.arguments.push_back("--resume");
  expect_refusal(moray(resume), {"tokenizer"});
  Invocation init = workshop.train(scratch / "new", {"data.dataset=" + (scratch / "d").string()});
  init.arguments.insert(init.arguments.end(), {"--init", *latest_checkpoint(run / "checkpoints") / "model"});
  expect_refusal(moray(init), {"tokenizer"});
}

TEST(BadCorpus, EmptyOrMissing) {
  const ScratchFolder scratch;
  fs::create_directory(scratch / "empty");
  write_file_atomically(scratch / "empty.txt", "");
  write_file_atomically(scratch / "bad.jsonl", "{\"text\": \"fine\"}\n{\"text\": 3}\n");
  write_file_atomically(scratch / "bad.gz", "not gzip");
  const std::string tokenizer = Workshop::get().tokenizer();
  for (const char* name : {"empty", "empty.txt", "missing", "bad.jsonl", "bad.gz"}) {
    SCOPED_TRACE(name);
    const std::string path = scratch / name;
    expect_refusal(moray({"tokenizer", "train", "--corpus", path, "--output", scratch / "t"}), {});
    expect_refusal(
        moray({"data", "build", "--corpus", path, "--tokenizer", tokenizer, "--output", scratch / "d"}), {});
    EXPECT_FALSE(fs::exists(scratch / "d" / "dataset.json"));
  }
}

TEST(BadTokenizer, IsRefused) {
  const std::string good = read_file(Workshop::get().tokenizer() / "tokenizer.json");
  const ScratchFolder scratch;
  const fs::path file = scratch / "tokenizer.json";
  const auto refused = [&](const std::string& content) {
    write_file_atomically(file, content);
    expect_refusal(moray({"tokenizer", "encode", "--tokenizer", file, "--text", "hello"}),
                   {"tokenizer.json"});
  };
  refused("");
  refused("{}");
  refused("[1, 2]");
  refused(good.substr(0, good.size() / 2));
  refused(good + "}");
  expect_refusal(moray({"tokenizer", "encode", "--tokenizer", scratch / "none", "--text", "x"}), {"none"});
}

TEST(Tokenizer, TakesAnyBytes) {
  const std::string tokenizer = Workshop::get().tokenizer();
  std::string bytes = "\xff\xfe broken \xc3( \xe2\x82 ";
  for (int value = 0; value < 256; ++value) bytes.push_back(static_cast<char>(value));
  const Outcome ids =
      moray(Invocation{.arguments = {"tokenizer", "encode", "--tokenizer", tokenizer}, .input = bytes});
  ASSERT_EQ(ids.status, 0) << ids.err;
  const Outcome text =
      moray(Invocation{.arguments = {"tokenizer", "decode", "--tokenizer", tokenizer}, .input = ids.out});
  EXPECT_EQ(text.out, bytes);
  EXPECT_EQ(
      moray(Invocation{.arguments = {"tokenizer", "encode", "--tokenizer", tokenizer}, .input = ""}).status,
      0);
}

TEST(Tokenizer, IdBeyondTheVocabulary) {
  const std::string tokenizer = Workshop::get().tokenizer();
  expect_refusal(moray({"tokenizer", "decode", "--tokenizer", tokenizer, "384"}), {"384"});
  expect_refusal(
      moray(Invocation{.arguments = {"tokenizer", "decode", "--tokenizer", tokenizer}, .input = "1 -2 3"}),
      {"-2"});
}

// A model folder of a run, to be damaged.
struct ModelCopy {
  ScratchFolder scratch;
  fs::path checkpoint = scratch / "checkpoint", model = checkpoint / "model";
  ModelCopy() { copy_folder(*latest_checkpoint(Workshop::get().trained() / "checkpoints"), checkpoint); }
  Outcome eval(const fs::path& folder) const {
    return moray({"eval", "--model", folder, "--text", Workshop::get().corpus() / "000.txt", "--json"});
  }
};

TEST(BadModel, ADamagedCheckpointIsNoticed) {
  for (const char* name :
       {"model/model.safetensors", "model/config.json", "model/tokenizer.json", "manifest.json"}) {
    SCOPED_TRACE(name);
    const ModelCopy copy;
    ASSERT_EQ(copy.eval(copy.checkpoint).status, 0);
    flip_byte(copy.checkpoint / name, -2);
    expect_refusal(copy.eval(copy.checkpoint), {copy.checkpoint.string()});
  }
}

void replace_in(const fs::path& file, const std::string& what, const std::string& with) {
  std::string text = read_file(file);
  const size_t at = text.find(what);
  ASSERT_NE(at, std::string::npos) << what;
  write_file_atomically(file, text.replace(at, what.size(), with));
}

TEST(BadModel, AFolderThatDoesNotFitItsConfig) {
  const auto with = [](const std::string& what, const std::string& replacement, const Fragments& fragments) {
    SCOPED_TRACE(replacement);
    const ModelCopy copy;
    fs::remove(copy.checkpoint / "manifest.json");  // a model folder from elsewhere: no checksums
    replace_in(copy.model / "config.json", what, replacement);
    expect_refusal(copy.eval(copy.model), fragments);
  };
  with("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3",
       {"model.layers.2.eh_proj.weight"});  // the MTP module's
  with("\"n_routed_experts\": 8", "\"n_routed_experts\": 4", {"model.layers.1.mlp.gate"});  // mis-shaped
  with("\"num_nextn_predict_layers\": 1", "\"num_nextn_predict_layers\": 0",
       {"model.layers.2.", "belongs to no part"});
  with("\"hidden_size\": 32", "\"hidden_size\": \"wide\"", {"hidden_size"});
  with("\"hidden_size\": 32", "\"hidden_size\": -32", {"config.json", "hidden_size is -32"});
  with("\"model_type\": \"deepseek_v3\"", "\"model_type\": \"llama\"", {"llama"});
  with("{", "{{", {"config.json"});
}

TEST(BadModel, Arguments) {
  const std::string model = Workshop::get().trained(), text = Workshop::get().corpus() / "000.txt";
  const ScratchFolder scratch;
  write_file_atomically(scratch / "empty", "");
  expect_refusal(moray({"generate", "--model", model, "--prompt", "a", "--max-tokens", "100"}),
                 {"64 positions"});
  expect_refusal(moray({"generate", "--model", model, "--prompt", std::string(500, 'z')}), {"64 positions"});
  expect_refusal(moray({"generate", "--model", model, "--temperature", "-1", "--max-tokens", "3"}),
                 {"temperature", "-1"});
  expect_refusal(moray({"generate", "--model", model, "--top-p", "1.5", "--max-tokens", "3"}), {"top"});
  expect_refusal(moray({"generate", "--model", model, "--weights", "best", "--max-tokens", "3"}), {"best"});
  expect_refusal(moray({"generate", "--model", scratch / "none"}), {"none"});
  expect_refusal(moray({"generate", "--model", scratch.path()}), {scratch.path().string()});
  expect_refusal(moray({"eval", "--model", model, "--text", scratch / "empty"}), {"empty"});
  expect_refusal(moray({"eval", "--model", model, "--text", scratch / "none"}), {"none"});
  expect_refusal(moray({"eval", "--model", model}), {"--data"});
  expect_refusal(moray({"eval", "--model", model, "--text", text, "--sequence-length", "65"}),
                 {"65", "64 positions"});
}

TEST(BadModel, WhatCannotBeAnsweredIsToldBeforeLoading) {
  const ModelCopy copy;
  fs::remove(copy.checkpoint / "manifest.json");
  fs::remove(copy.model / "model.safetensors");  // whoever loads tells of this
  const auto refused = [&](std::vector<std::string> arguments, const Fragments& fragments) {
    arguments.insert(arguments.end(), {"--model", copy.model});
    expect_refusal(moray(arguments), fragments);
  };
  const std::string much(500, 'z');
  refused({"generate", "--prompt", much}, {"501 tokens", "64 positions"});
  refused({"generate", "--logit-bias", "100000=1", "--max-tokens", "3"}, {"--logit-bias", "100000"});
  refused({"generate", "--context", "65"}, {"--context is 65", "64 positions"});
  refused({"chat", "--message", much, "--chat-template", "v3"}, {"--message", "the context has 64"});
  refused({"chat", "--system", much, "--chat-template", "v3"}, {"--system", "the context has 64"});
  refused({"chat", "--message", "a"}, {"--chat-template"});
  refused({"generate", "--stop-token", "100000", "--max-tokens", "3"}, {"--stop-token", "100000"});
  refused({"generate", "--logit-bias", "65=1", "--logit-bias", "65=2", "--max-tokens", "3"},
          {"token 65 has two"});
  refused({"generate", "--logprobs", "2", "--max-tokens", "3"}, {"--json"});
  refused({"generate", "--weights", "ema", "--max-tokens", "3"}, {"moving average"});
  refused({"chat", "--message", "a", "--stop", "", "--chat-template", "v3"}, {"stop"});
  refused({"eval", "--text", "nowhere"}, {"nowhere"});
  refused({"eval", "--text", Workshop::get().corpus() / "000.txt", "--sequence-length", "65"},
          {"64 positions"});
  refused({"eval", "--text", Workshop::get().corpus() / "000.txt", "--against", "nowhere"}, {"nowhere"});
  refused({"generate", "--max-tokens", "3"}, {"model.safetensors"});
}

TEST(BadModel, FilesAreNoFolders) {
  const ModelCopy copy;
  const ScratchFolder scratch;
  fs::create_directory(scratch / "gguf");
  write_file_atomically(scratch / "gguf" / "model.gguf", "GGUF");
  for (const std::string path : {scratch / "gguf", scratch / "gguf" / "model.gguf"})
    for (const char* command : {"inspect", "quantize", "eval"}) {
      std::vector<std::string> arguments = {command, path};
      if (std::string(command) == "quantize")
        arguments.insert(arguments.end(), {scratch / "q", "--format", "8bit"});
      if (std::string(command) == "eval") arguments = {"eval", "--text", "x", "--model", path};
      expect_refusal(moray(arguments), {"model.gguf", "GGUF", "safetensors"});
    }
  expect_refusal(moray({"generate", "--model", copy.model / "config.json"}), {"is a file", "folder"});
}

TEST(BadModel, BenchesLookAtTheMemoryFirst) {
  Process process({.arguments = {"bench", "decode", std::string(MORAY_SOURCE_DIR) + "/recipes/v3.toml"}});
  ASSERT_TRUE(process.ends_within(30));
  expect_refusal(process.wait(), {"the weights need", "free"});
}

TEST(BadModel, APartOfARandomOneDoesNotStay) {
  const ScratchFolder scratch;
  expect_refusal(
      moray(Invocation{.arguments = {"bench", "make-model", Workshop::get().recipe(), scratch / "m"},
                       .file_size_limit = 10'000}),
      {"model", "cannot write"});
  EXPECT_FALSE(fs::exists(scratch / "m"));
}

// A narrow model with a wide cache: 6.5 MB a token in F32, beside weights of 30 MB.
TEST(BadModel, APromptWhoseCacheDoesNotFit) {
  const fs::path model = *latest_checkpoint(Workshop::get().trained() / "checkpoints") / "model";
  const ScratchFolder scratch;
  nlohmann::json config = nlohmann::json::parse(read_file(model / "config.json"));
  for (const auto& [key, value] : {std::pair{"num_hidden_layers", 200},
                                   {"first_k_dense_replace", 200},
                                   {"kv_lora_rank", 8192},
                                   {"hidden_size", 4},
                                   {"intermediate_size", 4},
                                   {"num_attention_heads", 1},
                                   {"qk_nope_head_dim", 2},
                                   {"v_head_dim", 2},
                                   {"num_nextn_predict_layers", 0},
                                   {"max_position_embeddings", 1 << 20}})
    config[key] = value;
  write_file_atomically(scratch / "shape.json", config.dump());
  const Outcome made =
      moray({"bench", "make-model", scratch / "shape.json", scratch / "m", "--format", "bf16"});
  ASSERT_EQ(made.status, 0) << made.err;
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"})
    fs::copy_file(model / name, scratch / "m" / name);
  std::string prompt;
  while (prompt.size() < 100'000) prompt += "~`";  // no merges in any text
  for (const std::vector<std::string>& command : {std::vector<std::string>{"generate", "--prompt", prompt},
                                                  {"chat", "--chat-template", "v3", "--message", prompt}}) {
    Invocation invocation{.arguments = command};
    invocation.arguments.insert(invocation.arguments.end(),
                                {"--model", scratch / "m", "--cache", "f32", "--max-tokens", "3"});
    Process process(invocation);
    ASSERT_TRUE(process.ends_within(60)) << command[0] << " computes the prompt";
    expect_refusal(process.wait(), {"the cache", "free"});
  }
}

TEST(BadResume, WithAnotherShape) {
  const Workshop& workshop = Workshop::get();
  const ScratchFolder scratch;
  const fs::path run = scratch / "run";
  copy_folder(workshop.trained(), run);
  const auto before = content_of(run);
  const BadSetting cases[] = {{"model.hidden_size=48", {"model.embed_tokens.weight"}},
                              {"model.num_hidden_layers=3", {"model.layers."}},
                              {"model.n_routed_experts=4", {"model.layers.1.mlp."}},
                              {"train.seed=9", {"seed 1", "9"}},
                              {"train.precision=bf16", {"another train.precision", "--init"}}};
  for (const BadSetting& bad : cases) {
    SCOPED_TRACE(bad.setting);
    Invocation resume = workshop.train(run, {bad.setting});
    resume.arguments.push_back("--resume");
    expect_refusal(moray(resume), bad.fragments);
    EXPECT_TRUE(content_of(run) == before);
  }
}

TEST(BadEnvironment, IsTold) {
  const ScratchFolder scratch;
  Invocation invocation = Workshop::get().train(scratch / "run");
  invocation.environment = {{"MORAY_THREADS", "lots"}};
  expect_refusal(moray(invocation), {"MORAY_THREADS", "lots"});
  invocation.environment = {{"MORAY_SIMD", "mmx"}};
  expect_refusal(moray(invocation), {"MORAY_SIMD", "mmx"});
}

// A finished run that trains on and finds no room: what was saved stays as it was.
void expect_intact_after(const fs::path& run, Invocation more) {
  const auto before = weights_of(run);
  const fs::path newest = *latest_checkpoint(run / "checkpoints");
  more.arguments.push_back("--resume");
  expect_refusal(moray(more), {run.string()}, true);
  EXPECT_EQ(*latest_checkpoint(run / "checkpoints"), newest);
  verify_checkpoint(newest);
  EXPECT_TRUE(weights_of(run) == before);
}

const std::vector<std::string> kMoreSteps = {"train.tokens=6144"};

TEST(FullDisk, AFileSizeLimitLeavesTheLastCheckpoint) {
  const ScratchFolder scratch;
  const fs::path run = scratch / "run";
  copy_folder(Workshop::get().trained(), run);
  Invocation more = Workshop::get().train(run, kMoreSteps);
  more.file_size_limit =
      fs::file_size(*latest_checkpoint(run / "checkpoints") / "model" / "model.safetensors") - 1000;
  expect_intact_after(run, more);
}

TEST(NeedsMounting, ASmallFileSystemLeavesTheLastCheckpoint) {
  const ScratchFolder scratch;
  const fs::path disk = scratch / "disk";
  fs::create_directory(disk);
  uint64_t needed = 0;
  for (const auto& [name, bytes] : content_of(Workshop::get().trained()))
    needed += (bytes.size() + 4095) / 4096 * 4096;
  const std::string size = "size=" + std::to_string(needed + 200'000);  // no room for one more checkpoint
  if (::mount("none", disk.c_str(), "tmpfs", 0, size.c_str()) != 0)
    GTEST_SKIP() << "no right to mount: " << std::strerror(errno);
  copy_folder(Workshop::get().trained(), disk / "run");
  expect_intact_after(disk / "run", Workshop::get().train(disk / "run", kMoreSteps));
  EXPECT_EQ(::umount(disk.c_str()), 0);
}

}  // namespace
}  // namespace moray::test
