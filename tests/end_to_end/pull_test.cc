// moray pull from a hub on this machine: what comes is a model of use, and a kill costs nothing.
#include <gtest/gtest.h>

#include <csignal>
#include <functional>
#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/safetensors_writer.h"
#include "hub/test_hub.h"
#include "workshop.h"

namespace moray::test {
namespace {

fs::path trained_model() {
  return *latest_checkpoint(Workshop::get().trained() / "checkpoints") / "model";
}

void offer_trained_model(TestHub& hub) {
  for (const auto& [path, content] : content_of(trained_model()))
    hub.files[path] = {content, path.ends_with(".safetensors")};
  hub.files["README.md"] = {"read me"};
}

Invocation pull_from(const TestHub& hub, const fs::path& output) {
  Invocation invocation{{"pull", "org/name", "--output", output, "--json"}};
  invocation.environment = {{"HF_ENDPOINT", hub.endpoint()}, {"HF_TOKEN", hub.token}};
  return invocation;
}

std::string eval(const fs::path& model) {
  return moray({"eval", "--model", model, "--data", Workshop::get().dataset(), "--sequence-length", "32",
                "--json"})
      .out;
}

TEST(PullCommand, WhatComesIsAModelOfUse) {
  TestHub hub;
  hub.token = "hf_secret";
  offer_trained_model(hub);
  const ScratchFolder scratch;
  const Outcome outcome = moray(pull_from(hub, scratch / "model"));
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(json_value(outcome.out, "commit"), "\"" + hub.commit + "\"");
  EXPECT_EQ(json_value(outcome.out, "was_complete"), "false");
  EXPECT_EQ(eval(scratch / "model"), eval(trained_model()));
  EXPECT_EQ(json_value(moray(pull_from(hub, scratch / "model")).out, "was_complete"), "true");
}

TEST(PullCommand, GoesOnAfterAKill) {
  TestHub hub;
  offer_trained_model(hub);
  hub.add_fault("model.safetensors", [](Reply& reply) { reply.cut = 10'000; });
  hub.add_fault("model.safetensors", [](Reply& reply) { reply = {429, {{"Retry-After", "300"}}, ""}; });
  const ScratchFolder scratch;
  const fs::path part = scratch / "model.part" / "model.safetensors.part";
  {
    Process pull(pull_from(hub, scratch / "model"));
    for (int i = 0; i < 500 && hub.storage().seen().size() < 2; ++i) sleep_seconds(0.02);
    ASSERT_FALSE(pull.ended());
    pull.signal(SIGKILL);
    pull.wait();
  }
  EXPECT_FALSE(fs::exists(scratch / "model"));
  EXPECT_EQ(fs::file_size(part), 10'000u);
  ASSERT_EQ(moray(pull_from(hub, scratch / "model")).status, 0);
  EXPECT_EQ(hub.storage().seen().back().range, "bytes=10000-");
  EXPECT_EQ(content_of(scratch / "model")["model.safetensors"],
            read_file(trained_model() / "model.safetensors"));
}

// Shard by shard from the hub as from the whole folder; and near enough to the original to be of use.
TEST(PullCommand, QuantizesWhatComes) {
  TestHub hub;
  offer_trained_model(hub);
  const ScratchFolder scratch;
  Invocation invocation = pull_from(hub, scratch / "pulled");
  invocation.arguments.insert(invocation.arguments.end(), {"--quantize", "8bit"});
  const Outcome outcome = moray(invocation);
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  ASSERT_EQ(moray({"quantize", trained_model(), scratch / "quantized", "--format", "8bit"}).status, 0);
  auto pulled = content_of(scratch / "pulled");
  pulled.erase(".moray-pull.json");
  const auto quantized = content_of(scratch / "quantized");
  for (const auto& [path, content] : pulled) EXPECT_TRUE(quantized.at(path) == content) << path;
  const Outcome compared = moray({"eval", "--model", scratch / "pulled", "--against", trained_model(),
                                  "--data", Workshop::get().dataset(), "--sequence-length", "32", "--json"});
  ASSERT_EQ(compared.status, 0) << compared.err;
  EXPECT_LT(std::stod(json_value(compared.out, "divergence")), 1e-3);
  EXPECT_GT(std::stod(json_value(compared.out, "same_top_share")), 0.9);
  // The packed file changes nothing.
  const std::vector<std::string> packed = {
      "eval", "--model", scratch / "pulled", "--data", Workshop::get().dataset(), "--sequence-length",
      "32",   "--json",  "--packed"};
  const std::string first = moray(packed).out;
  EXPECT_TRUE(fs::exists(scratch / "pulled" / ".moray-packed"));
  EXPECT_EQ(moray(packed).out, first);
  EXPECT_EQ(eval(scratch / "pulled"), first);
  expect_refusal(moray({"quantize", scratch / "pulled", scratch / "again"}), {"quantized already"});
}

// Gigabytes are not fetched, nor originals thrown away, for what cannot be served afterwards.
TEST(PullCommand, WhatCannotBeServedIsNotQuantized) {
  const ScratchFolder scratch;
  int pulls = 0;
  const auto quantizing = [&](const std::function<void(TestHub&)>& edit, bool before_shards) {
    TestHub hub;
    offer_trained_model(hub);
    edit(hub);
    Invocation invocation = pull_from(hub, scratch / std::to_string(++pulls));
    invocation.arguments.insert(invocation.arguments.end(), {"--quantize", "8bit"});
    const Outcome outcome = moray(invocation);
    const fs::path original = scratch / fmt::format("{}.part/.originals/model.safetensors", pulls);
    EXPECT_EQ(fs::exists(original), !before_shards);
    EXPECT_EQ(hub.storage().seen().empty(), before_shards);
    return outcome;
  };
  const auto with_config = [](const std::string& key, const nlohmann::json& value) {
    return [key, value](TestHub& hub) {
      std::string& text = hub.files["config.json"].content;
      nlohmann::json config = nlohmann::json::parse(text);
      config[key] = value;
      text = config.dump();
    };
  };
  const auto without_norm = [&](TestHub& hub) {
    const SafetensorsFile whole(trained_model() / "model.safetensors");
    std::vector<TensorToWrite> list;
    for (const StoredTensor& tensor : whole.tensors())
      if (tensor.name != "model.norm.weight")
        list.push_back({tensor.name, tensor.dtype, tensor.shape, tensor.bytes()});
    write_safetensors(scratch / "lacking", list,
                      [&](size_t i) { return whole.bytes(*whole.find(list[i].name)); });
    hub.files["model.safetensors"].content = read_file(scratch / "lacking");
  };
  expect_refusal(quantizing(with_config("model_type", "llama"), true), {"model_type is 'llama'"});
  expect_refusal(quantizing(with_config("model_type", "deepseek_v32"), true), {"sparse attention"});
  expect_refusal(quantizing(with_config("hidden_size", 256), false),
                 {"the tensors do not fit config.json", "expected"});
  expect_refusal(quantizing(without_norm, false), {"'model.norm.weight' is missing"});
  expect_refusal(quantizing(
                     [](TestHub& hub) {
                       hub.files["model.safetensors.index.json"] = {
                           R"({"weight_map": {"spare.weight": "model.safetensors"}})"};
                     },
                     true),
                 {"model.safetensors.index.json: the tensors do not fit", "'lm_head.weight' is missing"});
}

// As it is it may be meant for another program.
TEST(PullCommand, WarnsOfAFamilyThatIsNotServed) {
  TestHub hub;
  hub.files = {{"config.json", {R"({"model_type": "llama"})"}}, {"model.safetensors", {"weights", true}}};
  const ScratchFolder scratch;
  const Outcome outcome = moray(pull_from(hub, scratch / "model"));
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("warning: moray cannot run this model: its config.json: model_type is 'llama'"),
            std::string::npos)
      << outcome.err;
}

TEST(PullCommand, RefusalsAreOneLine) {
  TestHub hub;
  hub.token = "hf_secret";
  offer_trained_model(hub);
  const ScratchFolder scratch;
  Invocation without_token = pull_from(hub, scratch / "model");
  without_token.environment.pop_back();
  expect_refusal(moray(without_token), {"HF_TOKEN", "401"});
  expect_refusal(moray({"pull", "../../etc"}), {"'../../etc' is no repository"});
  expect_refusal(moray({"pull", "org/name", "--connections", "0"}), {"--connections"});
  expect_refusal(moray({{"pull", "org/name", "--output", scratch / "x"}, {{"HF_ENDPOINT", "gopher://hub"}}}),
                 {"expected an http or https URL"});
}

}  // namespace
}  // namespace moray::test
