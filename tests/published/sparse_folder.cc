#include "sparse_folder.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace moray::test {

namespace {

using Json = nlohmann::json;
using Shape = std::vector<int64_t>;

class Lister {
 public:
  explicit Lister(const Json& config) : config_(config), fp8_(config.contains("quantization_config")) {}

  std::vector<PublishedTensor> run() {
    const int64_t layers = integer("num_hidden_layers"), mtp = integer("num_nextn_predict_layers");
    const Shape table{integer("vocab_size"), hidden()};
    add("model.embed_tokens.weight", table);
    for (int64_t layer = 0; layer < layers + mtp; ++layer) {
      const std::string prefix = fmt::format("model.layers.{}.", layer);
      attention(prefix + "self_attn.");
      for (const char* norm : {"input_layernorm", "post_attention_layernorm"})
        add(prefix + norm + ".weight", {hidden()});
      if (layer < integer("first_k_dense_replace"))
        mlp(prefix + "mlp.", integer("intermediate_size"));
      else
        experts(prefix + "mlp.");
      if (layer < layers) continue;
      for (const char* norm : {"enorm", "hnorm", "shared_head.norm"})
        add(prefix + norm + ".weight", {hidden()});
      add(prefix + "eh_proj.weight", {hidden(), 2 * hidden()});
      add(prefix + "embed_tokens.weight", table);
      add(prefix + "shared_head.head.weight", table);
    }
    add("model.norm.weight", {hidden()});
    add("lm_head.weight", table);
    return std::move(tensors_);
  }

 private:
  int64_t integer(const char* key) const {
    return config_.contains(key) && !config_.at(key).is_null() ? config_.at(key).get<int64_t>() : 0;
  }
  int64_t hidden() const { return integer("hidden_size"); }

  void add(const std::string& name, const Shape& shape) { tensors_.push_back({name, "BF16", shape}); }
  void linear(const std::string& name, int64_t outputs, int64_t inputs) {
    tensors_.push_back({name + ".weight", fp8_ ? "F8_E4M3" : "BF16", {outputs, inputs}});
    if (fp8_)
      tensors_.push_back({name + ".weight_scale_inv", "F32", {(outputs + 127) / 128, (inputs + 127) / 128}});
  }
  void attention(const std::string& prefix) {
    const int64_t heads = integer("num_attention_heads"), rank = integer("q_lora_rank"),
                  latent = integer("kv_lora_rank"), nope = integer("qk_nope_head_dim"),
                  rope = integer("qk_rope_head_dim"), value = integer("v_head_dim");
    if (rank > 0) {
      linear(prefix + "q_a_proj", rank, hidden());
      add(prefix + "q_a_layernorm.weight", {rank});
      linear(prefix + "q_b_proj", heads * (nope + rope), rank);
    } else {
      linear(prefix + "q_proj", heads * (nope + rope), hidden());
    }
    linear(prefix + "kv_a_proj_with_mqa", latent + rope, hidden());
    add(prefix + "kv_a_layernorm.weight", {latent});
    linear(prefix + "kv_b_proj", heads * (nope + value), latent);
    linear(prefix + "o_proj", hidden(), heads * value);
  }
  void mlp(const std::string& prefix, int64_t width) {
    linear(prefix + "gate_proj", width, hidden());
    linear(prefix + "up_proj", width, hidden());
    linear(prefix + "down_proj", hidden(), width);
  }
  void experts(const std::string& prefix) {
    const int64_t count = integer("n_routed_experts"), width = integer("moe_intermediate_size");
    add(prefix + "gate.weight", {count, hidden()});
    if (config_.at("topk_method") == "noaux_tc")
      tensors_.push_back({prefix + "gate.e_score_correction_bias", "F32", {count}});
    for (int64_t e = 0; e < count; ++e) mlp(fmt::format("{}experts.{}.", prefix, e), width);
    mlp(prefix + "shared_experts.", width * integer("n_shared_experts"));
  }

  const Json& config_;
  bool fp8_;
  std::vector<PublishedTensor> tensors_;
};

uint64_t bytes_of(const PublishedTensor& tensor) {
  const uint64_t size = tensor.dtype == "F32" ? 4 : tensor.dtype == "BF16" ? 2 : 1;
  return static_cast<uint64_t>(tensor.elements()) * size;
}

// The header, then nothing until the end.
void write_shard(const fs::path& path, const std::vector<const PublishedTensor*>& tensors) {
  std::string header = "{\"__metadata__\":{\"format\":\"pt\"}";
  uint64_t at = 0;
  for (const PublishedTensor* tensor : tensors) {
    const uint64_t end = at + bytes_of(*tensor);
    header += fmt::format(",\"{}\":{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                          tensor->name, tensor->dtype, fmt::join(tensor->shape, ","), at, end);
    at = end;
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const uint64_t length = header.size();
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(&length), sizeof(length));
  file.write(header.data(), static_cast<std::streamsize>(length));
  file.close();
  if (!file) fail("{}: cannot write", path.string());
  fs::resize_file(path, sizeof(length) + length + at);
}

}  // namespace

int64_t PublishedTensor::elements() const {
  int64_t count = 1;
  for (int64_t extent : shape) count *= extent;
  return count;
}

std::vector<PublishedTensor> published_tensors(const std::string& config_json) {
  const Json config = Json::parse(config_json);
  return Lister(config).run();
}

void write_sparse_folder(const fs::path& folder, const std::string& config_json, uint64_t shard_bytes) {
  const std::vector<PublishedTensor> tensors = published_tensors(config_json);
  std::vector<std::vector<const PublishedTensor*>> shards(1);
  uint64_t filled = 0;
  for (const PublishedTensor& tensor : tensors) {
    if (filled > shard_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back(&tensor);
    filled += bytes_of(tensor);
  }
  fs::create_directories(folder);
  write_file_atomically(folder / "config.json", config_json);
  Json map = Json::object();
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("model-{:05}-of-{:06}.safetensors", i + 1, shards.size());
    write_shard(folder / name, shards[i]);
    for (const PublishedTensor* tensor : shards[i]) map[tensor->name] = name;
  }
  write_file_atomically(folder / "model.safetensors.index.json",
                        Json{{"metadata", Json::object()}, {"weight_map", std::move(map)}}.dump(1));
}

std::string published_config(const std::string& family) {
  return read_file(fs::path(MORAY_SOURCE_DIR) / "tests/published/configs" / (family + ".json"));
}

}  // namespace moray::test
