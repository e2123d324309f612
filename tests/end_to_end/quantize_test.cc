// moray quantize as its users meet it.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint.h"
#include "tests/published/sparse_folder.h"
#include "workshop.h"

namespace moray::test {
namespace {

using nlohmann::json;

TEST(QuantizeCommand, TellsWhatItCosts) {
  const Workshop& workshop = Workshop::get();
  const ScratchFolder scratch;
  const std::string model = workshop.trained(), output = scratch / "small",
                    text = workshop.corpus() / "000.txt";
  expect_refusal(moray({"quantize", model, output, "--text", scratch / "none.txt"}), {"none.txt"});
  EXPECT_FALSE(fs::exists(output)) << "nothing is begun when the text cannot be read";
  const Outcome outcome = moray({"quantize", model, output, "--format", "4bit", "--text", text, "--json"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const json cost = json::parse(outcome.out)["cost"];
  EXPECT_GT(cost["divergence"], 0);
  EXPECT_LT(cost["divergence"], 0.1);
  const Outcome eval = moray({"eval", "--model", output, "--against", model, "--text", text, "--json"});
  EXPECT_EQ(json::parse(eval.out), cost);
  const Outcome plain = moray({"quantize", model, scratch / "eight", "--format", "8bit", "--text", text});
  EXPECT_NE(plain.out.find("KL divergence"), std::string::npos) << plain.out << plain.err;
}

TEST(Eval, ComparesModelsOfOneTokenizer) {
  const Workshop& workshop = Workshop::get();
  const ScratchFolder scratch;
  copy_folder(*latest_checkpoint(workshop.trained() / "checkpoints") / "model", scratch / "other");
  const fs::path tokenizer = scratch / "other" / "tokenizer.json";
  const auto eval = [&] {
    return moray({"eval", "--model", workshop.trained(), "--against", scratch / "other", "--text",
                  workshop.corpus() / "000.txt", "--json"});
  };
  nlohmann::ordered_json changed = nlohmann::ordered_json::parse(read_file(tokenizer));
  write_file_atomically(tokenizer, changed.dump());  // the same tokens, written otherwise
  const Outcome same = eval();
  ASSERT_EQ(same.status, 0) << same.err;
  EXPECT_EQ(json::parse(same.out)["divergence"], 0);
  auto& vocabulary = changed["model"]["vocab"];
  std::swap(vocabulary["a"], vocabulary["b"]);
  write_file_atomically(tokenizer, changed.dump());
  expect_refusal(eval(), {"tokenizer", "'a'", "'b'"});
}

TEST(QuantizeCommand, TakesOverNothingThatIsNotItsOwn) {
  const std::string model = Workshop::get().trained();
  const ScratchFolder scratch;
  fs::create_directory(scratch / "q.part");
  write_file_atomically(scratch / "q.part" / "thesis.tex", "mine");
  expect_refusal(moray({"quantize", model, scratch / "q"}), {"q.part", "not the work of a quantization"});
  EXPECT_EQ(read_file(scratch / "q.part" / "thesis.tex"), "mine");
  fs::create_directory(scratch / "elsewhere");
  fs::create_directory_symlink(scratch / "elsewhere", scratch / "r.part");
  expect_refusal(moray({"quantize", model, scratch / "r"}), {"r.part", "is a link"});
  EXPECT_TRUE(fs::is_empty(scratch / "elsewhere"));
}

TEST(QuantizeCommand, ASlashAtTheEndIsNoOtherFolder) {
  const std::string model = Workshop::get().trained();
  const ScratchFolder scratch;
  ASSERT_EQ(moray({"quantize", model, std::string(scratch / "q") + "/"}).status, 0);
  EXPECT_TRUE(fs::exists(scratch / "q" / "config.json"));
  for (const auto& [name, content] : content_of(scratch / "q")) EXPECT_FALSE(name.starts_with(".")) << name;
}

TEST(QuantizeCommand, RefusesWhatCannotBeServed) {
  const fs::path model = *latest_checkpoint(Workshop::get().trained() / "checkpoints") / "model";
  const ScratchFolder scratch;
  const auto refuse = [&](const std::string& name, const std::vector<std::string>& fragments) {
    expect_refusal(moray({"quantize", scratch / name, scratch / (name + "-4bit")}), fragments);
    EXPECT_FALSE(fs::exists(scratch / (name + "-4bit.part"))) << name;
  };
  copy_folder(model, scratch / "other");
  json config = json::parse(read_file(model / "config.json"));
  config["model_type"] = "llama";
  write_file_atomically(scratch / "other" / "config.json", config.dump());
  refuse("other", {"llama"});
  copy_folder(model, scratch / "shape");
  config = json::parse(read_file(model / "config.json"));
  config["kv_lora_rank"] = 24;
  write_file_atomically(scratch / "shape" / "config.json", config.dump());
  refuse("shape", {"kv_a_proj_with_mqa"});
}

// Whoever copies over a shard cuts it first, under the feet of those who have it mapped.
TEST(QuantizeCommand, TellsWhichFileWasCutWhileItWasRead) {
  const ScratchFolder scratch;
  write_sparse_folder(scratch / "model", published_config("v2-lite"));  // 31 GB of holes
  Process process(Invocation{.arguments = {"quantize", scratch / "model", scratch / "q"}});
  const double end = seconds_now() + 60;
  const auto begun = [&] {
    std::error_code none_yet;
    for (const fs::directory_entry& entry : fs::directory_iterator(scratch / "q.part", none_yet))
      if (entry.path().string().ends_with(".safetensors.part")) return true;
    return false;
  };
  while (!begun() && !process.ended() && seconds_now() < end) sleep_seconds(0.001);
  for (const fs::directory_entry& entry : fs::directory_iterator(scratch / "model"))
    if (entry.path().extension() == ".safetensors") fs::resize_file(entry.path(), 4096);
  ASSERT_TRUE(process.ends_within(60));
  expect_refusal(process.wait(), {(scratch / "model").string(), ".safetensors", "has become shorter"},
                 /*after_info=*/true);
}

TEST(Checkpoints, AreVerifiedHoweverTheirPathEnds) {
  const ScratchFolder scratch;
  copy_folder(*latest_checkpoint(Workshop::get().trained() / "checkpoints"), scratch / "step");
  flip_byte(scratch / "step" / "model" / "model.safetensors", -5);
  for (const char* end : {"model", "model/", "./model/."})
    expect_refusal(
        moray({"generate", "--model", std::string(scratch / "step") + "/" + end, "--max-tokens", "3"}),
        {"model.safetensors", "checksum"});
}

}  // namespace
}  // namespace moray::test
