// moray inspect on folders with the true tensors of the published models.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint.h"
#include "tests/published/sparse_folder.h"
#include "workshop.h"

namespace moray::test {
namespace {

using nlohmann::json;

struct Published {
  const char* family;
  int64_t stored;        // elements of the folder's tensors, scales and MTP copies too; 0: not published
  double total, active;  // billions
  double mtp;            // of its own beside the main model
  int64_t cache_bf16, cache_fp8;  // bytes a token: layers · 576 · 2, layers · 656
};

// `stored`: the elements of all tensors of the published shapes. `active` counts embedding and head, as facts
// §1 does for V3 (37.55); the reports leave the embedding out of V2-Lite's 2.4B.
constexpr Published kFamilies[] = {
    {"v2-lite", 15706484224, 15.7, 2.66, 0, 27 * 1152, 27 * 656},
    {"v2", 235741434880, 236, 21.4, 0, 60 * 1152, 60 * 656},
    {"v3", 684531386000, 671, 37.55, 11.61, 61 * 1152, 61 * 656},
    {"v3.1", 684531386000, 671, 37.55, 11.61, 61 * 1152, 61 * 656},
    {"moonlight", 0, 16.0, 2.915, 0, 27 * 1152, 27 * 656},
    {"kimi-k2", 0, 1026, 32.9, 0, 61 * 1152, 61 * 656},
};

json inspect(const fs::path& folder) {
  const Outcome outcome = moray({"inspect", folder, "--json"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  return json::parse(outcome.out);
}

// Bytes of the main model's weights with `bytes(name, outputs, inputs)` for what is in FP8 in a folder of
// that form, and `of_head` for the head.
template <class Bytes>
int64_t weight_bytes(const std::string& config_json, const Bytes& bytes, bool of_head = false) {
  json config = json::parse(config_json);
  config["num_nextn_predict_layers"] = 0;
  config["quantization_config"] = json::object();
  int64_t sum = 0;
  for (const PublishedTensor& tensor : published_tensors(config.dump())) {
    const bool router = tensor.name.ends_with("mlp.gate.weight");
    if (tensor.dtype == "F8_E4M3" || (of_head && tensor.name == "lm_head.weight"))
      sum += bytes(tensor.name, tensor.shape[0], tensor.shape[1]);
    else if (!tensor.name.ends_with("_scale_inv"))
      sum += tensor.elements() * (tensor.shape.size() == 1 || router ? 4 : 2);
  }
  return sum;
}

// What one token passes of the main model, by the tensors' names: of the routed experts as many as it
// chooses.
int64_t active_parameters(const std::string& config_json) {
  json config = json::parse(config_json);
  config["num_nextn_predict_layers"] = 0;
  config.erase("quantization_config");
  int64_t routed = 0, rest = 0;
  for (const PublishedTensor& tensor : published_tensors(config.dump()))
    (tensor.name.find(".mlp.experts.") != std::string::npos ? routed : rest) += tensor.elements();
  return rest +
         routed / config["n_routed_experts"].get<int64_t>() * config["num_experts_per_tok"].get<int64_t>();
}

const json& need(const json& summary, const std::string& weights, int64_t context, const std::string& cache) {
  for (const json& each : summary["serving"]["needs"])
    if (each["weights"] == weights && each["context_tokens"] == context && each["cache"] == cache)
      return each;
  throw std::runtime_error("no " + weights + " at " + std::to_string(context) + " in " + cache);
}

void expect_needs(const json& summary, const std::string& config) {
  const auto tiles = [](int64_t extent) { return (extent + 127) / 128; };
  using Name = const std::string&;
  const auto int8 = [&](Name, int64_t o, int64_t i) { return o * i + 4 * o * tiles(i); };
  const auto int4 = [&](Name name, int64_t o, int64_t i) {
    const bool high = name == "lm_head.weight" || name.find(".kv_") != std::string::npos;
    return high ? int8(name, o, i) : o * i / 2 + o * i / 32 + 4 * o * tiles(i);
  };
  const std::pair<const char*, int64_t> forms[] = {
      {"BF16", weight_bytes(config, [](Name, int64_t o, int64_t i) { return 2 * o * i; })},
      {"FP8",
       weight_bytes(config, [&](Name, int64_t o, int64_t i) { return o * i + 4 * tiles(o) * tiles(i); })},
      {"8-bit", weight_bytes(config, int8, /*of_head=*/true)},
      {"4-bit", weight_bytes(config, int4, /*of_head=*/true)}};
  const int64_t limit = summary["model"]["positions"].get<int64_t>();
  for (const auto& [form, bytes] : forms)
    for (const int64_t context : {int64_t{4096}, std::min<int64_t>(32768, limit), limit})
      for (const char* cache : {"bf16", "fp8"}) {
        const json& entry = need(summary, form, context, cache);
        EXPECT_EQ(entry["weight_bytes"], bytes) << form;
        EXPECT_EQ(entry["cache_bytes"],
                  context * summary["serving"]["cache_bytes_per_token"][cache].get<int64_t>());
        const int64_t all =
            bytes + entry["cache_bytes"].get<int64_t>() + entry["working_bytes"].get<int64_t>();
        EXPECT_EQ(entry["bytes"], all);
        EXPECT_EQ(entry["fits_when_idle"], all <= summary["serving"]["machine_memory_bytes"].get<int64_t>());
        EXPECT_LT(entry["working_bytes"], int64_t{4} << 30);
      }
}

class InspectFamily : public testing::TestWithParam<Published> {};
void PrintTo(const Published& published, std::ostream* os) {
  *os << published.family;
}

TEST_P(InspectFamily, CountsWhatIsPublished) {
  const Published& expected = GetParam();
  const ScratchFolder scratch;
  const std::string config = published_config(expected.family);
  write_sparse_folder(scratch / "model", config);
  const json summary = inspect(scratch / "model");
  const json& model = summary["model"];
  EXPECT_NEAR(model["parameters"].get<double>() / 1e9, expected.total, expected.total * 0.003);
  EXPECT_NEAR(model["parameters_active"].get<double>() / 1e9, expected.active, expected.active * 0.005);
  EXPECT_EQ(model["parameters_active"].get<int64_t>(), active_parameters(config));
  EXPECT_NEAR(model["parameters_mtp"].get<double>() / 1e9, expected.mtp, 0.05);
  int64_t stored = 0, listed = 0;
  for (const auto& [dtype, entry] : summary["weights"]["by_dtype"].items())
    stored += entry["elements"].get<int64_t>();
  for (const PublishedTensor& tensor : published_tensors(config)) listed += tensor.elements();
  EXPECT_EQ(stored, listed);
  if (expected.stored > 0) {
    EXPECT_EQ(stored, expected.stored);
  }
  EXPECT_EQ(summary["serving"]["cache_bytes_per_token"]["bf16"], expected.cache_bf16);
  EXPECT_EQ(summary["serving"]["cache_bytes_per_token"]["fp8"], expected.cache_fp8);
  expect_needs(summary, config);
  EXPECT_FALSE(summary.contains("refused"));
  const json& stored_need = need(summary, "as stored", 4096, "bf16");
  const bool fp8 = json::parse(config).contains("quantization_config");
  EXPECT_EQ(stored_need["weight_bytes"], need(summary, fp8 ? "FP8" : "BF16", 4096, "bf16")["weight_bytes"]);
}

INSTANTIATE_TEST_SUITE_P(Families, InspectFamily, testing::ValuesIn(kFamilies));

TEST(Inspect, V3sDtypesAreTheHubs) {
  const ScratchFolder scratch;
  write_sparse_folder(scratch / "model", published_config("v3"));
  const json by_dtype = inspect(scratch / "model")["weights"]["by_dtype"];
  EXPECT_EQ(by_dtype["F8_E4M3"]["elements"], 680571043840);
  EXPECT_EQ(by_dtype["BF16"]["elements"], 3918786560);
  EXPECT_EQ(by_dtype["F32"]["elements"], 41555600);
}

// Before gigabytes are fetched a config.json is all there is.
TEST(Inspect, TakesAConfigAlone) {
  const ScratchFolder scratch;
  const std::string config = published_config("v3");
  fs::create_directory(scratch / "only");
  write_file_atomically(scratch / "only" / "config.json", config);
  write_sparse_folder(scratch / "whole", config);
  const json whole = inspect(scratch / "whole");
  for (const fs::path& path : {scratch / "only", scratch / "only" / "config.json"}) {
    const json alone = inspect(path);
    EXPECT_EQ(alone["kind"], "config");
    EXPECT_EQ(alone["model"], whole["model"]);
    for (const char* form : {"BF16", "FP8", "8-bit", "4-bit"})
      EXPECT_EQ(need(alone, form, 163840, "fp8")["bytes"], need(whole, form, 163840, "fp8")["bytes"]) << form;
  }
  expect_refusal(moray({"inspect", "--memory", scratch / "only"}), {"--memory is of a recipe"});
}

TEST(Inspect, QuantizedFoldersHaveNoOtherForm) {
  const ScratchFolder scratch;
  const fs::path model = *latest_checkpoint(Workshop::get().trained() / "checkpoints") / "model";
  ASSERT_EQ(moray({"quantize", model, scratch / "q", "--format", "4bit"}).status, 0);
  const json summary = inspect(scratch / "q");
  for (const json& entry : summary["serving"]["needs"]) EXPECT_EQ(entry["weights"], "as stored");
  const Outcome table = moray({"inspect", scratch / "q"});
  EXPECT_NE(table.out.find("memory to serve, MiB"), std::string::npos) << table.out;
  for (const std::string& line : lines_of(table.out)) EXPECT_FALSE(line.ends_with(' ')) << line;
}

TEST(Inspect, ShowsATableOfMemory) {
  const ScratchFolder scratch;
  write_sparse_folder(scratch / "model", published_config("moonlight"));
  const Outcome outcome = moray({"inspect", scratch / "model"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  for (const char* part :
       {"parameters", "memory to serve, GiB", "weights", "as stored", "4-bit", "8192", "fp8"})
    EXPECT_NE(outcome.out.find(part), std::string::npos) << part << outcome.out;
}

// What cannot be served is shown and refused by name.
TEST(Inspect, NamesWhatIsNotServed) {
  const ScratchFolder scratch;
  json config = json::parse(published_config("v2-lite"));
  const auto refused = [&](const char* folder, const json& changed) {
    write_sparse_folder(scratch / folder, config.dump());
    write_file_atomically(scratch / folder / "config.json", changed.dump());
    const Outcome outcome = moray({"inspect", scratch / folder, "--json"});
    EXPECT_EQ(outcome.status, 1);
    EXPECT_EQ(json::parse(outcome.out)["weights"]["tensors"], published_tensors(config.dump()).size());
    return outcome.err;
  };
  json other = config;
  other["model_type"] = "llama";
  EXPECT_NE(refused("llama", other).find("'llama'"), std::string::npos);
  other = config;
  other["quantization_config"] = {{"quant_method", "compressed-tensors"}};
  EXPECT_NE(refused("int4", other).find("'compressed-tensors'"), std::string::npos);
  other = config;
  other["num_hidden_layers"] = 28;
  EXPECT_NE(refused("more", other).find("model.layers.27.input_layernorm.weight' is missing"),
            std::string::npos);
}

}  // namespace
}  // namespace moray::test
