// Quantized folders: what becomes of which tensor, resumption, and that they are served as close to the
// original as their format allows.
#include "serve/quantize.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "backend/register.h"
#include "base/random.h"
#include "base/test_help.h"
#include "checkpoint/fp8_weights.h"
#include "serve/divergence.h"
#include "serve/engine.h"
#include "tensor/int_rows.h"

namespace moray {
namespace {

struct Machine {
  explicit Machine(int threads = 2, Device device = Device::cpu) : pool(threads) {
    register_backends();
    exec.device = device;
  }
  Allocator allocator;
  ThreadPool pool;
  Exec exec{Device::cpu, &pool, &allocator, DType::f32};
};

const fs::path kGolden = fs::path(MORAY_SOURCE_DIR) / "tests/golden/inference";

// V3's parts, with widths that 32 divides.
deepseek::ModelConfig small_config() {
  auto config = deepseek::ModelConfig::from_json(read_file(kGolden / "v3-f32/config.json"), "v3");
  config.hidden_size = 160;
  config.moe_intermediate_size = 96;
  config.kv_lora_rank = 64;
  config.q_lora_rank = 96;
  config.num_nextn_predict_layers = 0;
  config.initializer_range = 0.08;
  return config;
}

using Change = std::function<void(const deepseek::NamedWeight&)>;

void write_model(Exec& exec, const fs::path& folder, uint64_t max_shard_bytes = kDefaultShardBytes,
                 const Change& change = {}) {
  const deepseek::ModelConfig config = small_config();
  deepseek::Model model = deepseek::allocate_model(exec, config);
  deepseek::initialize(exec, model, 11);
  std::vector<NamedTensor> tensors;
  for (const deepseek::NamedWeight& weight : deepseek::named_weights(model)) {
    if (change) change(weight);
    tensors.push_back({weight.name, weight.tensor});
  }
  fs::create_directories(folder);
  write_safetensors_folder(folder, tensors, max_shard_bytes);
  write_file_atomically(folder / "config.json", config.to_json("float32", 0, 1));
  for (const char* beside : {"tokenizer.json", "vocabulary.gguf", ".hidden", "pytorch_model.bin"})
    write_file_atomically(folder / beside, "{}");
}

QuantizeSummary quantize(Exec& exec, const fs::path& from, const fs::path& to, IntFormat format) {
  return quantize_folder(exec, from, to, format, [](uint64_t, uint64_t) {});
}

ServedModel load(Exec& exec, const fs::path& folder) {
  const SafetensorsFolder weights(folder);
  return load_weights(exec, weights, plan_weights(weights, small_config(), false));
}

using test::error_of;

std::vector<int32_t> some_tokens(int64_t count) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i)
    ids.push_back(static_cast<int32_t>((i * 37 + i * i) % small_config().vocab_size));
  return ids;
}

Tensor logits_of(Exec& exec, const ServedModel& served, const std::vector<int32_t>& ids) {
  Engine engine(exec, served, {.cache_dtype = DType::f32});
  Tensor logits;
  engine.append_prompt(ids, [&](int64_t, const Tensor& states) { logits = engine.logits(states); });
  return logits;
}

TEST(Quantize, TensorsBecomeWhatTheirNamesSay) {
  Machine machine;
  const test::ScratchFolder scratch;
  const fs::path from = scratch / "model", to = scratch / "small";
  write_model(machine.exec, from);
  const QuantizeSummary summary = quantize(machine.exec, from, to, IntFormat::int4);
  EXPECT_LT(summary.bytes_after, summary.bytes_before / 3);
  const SafetensorsFolder before(from), after(to);
  const auto dtype = [&](const std::string& name) { return after.tensor(name).dtype; };
  const std::string layer = "model.layers.1.";
  EXPECT_EQ(dtype(layer + "mlp.experts.3.gate_proj.weight"), "U8");
  EXPECT_EQ(after.tensor(layer + "mlp.experts.3.gate_proj.weight").shape, (std::vector<int64_t>{96, 85}));
  EXPECT_EQ(after.tensor(layer + "mlp.experts.3.gate_proj.weight_scale").shape,
            (std::vector<int64_t>{96, 2}));
  EXPECT_EQ(dtype(layer + "self_attn.q_b_proj.weight"), "U8");
  EXPECT_EQ(dtype(layer + "self_attn.kv_a_proj_with_mqa.weight"), "I8");
  EXPECT_EQ(dtype(layer + "self_attn.kv_b_proj.weight"), "I8");
  EXPECT_EQ(dtype("lm_head.weight"), "I8");
  for (const std::string& name :
       {std::string("model.embed_tokens.weight"), std::string("model.norm.weight"), layer + "mlp.gate.weight",
        layer + "mlp.gate.e_score_correction_bias", layer + "self_attn.kv_a_layernorm.weight"}) {
    EXPECT_EQ(dtype(name), before.tensor(name).dtype) << name;
    EXPECT_TRUE(std::ranges::equal(after.bytes(name), before.bytes(name))) << name;
  }
  EXPECT_EQ(read_int_format(read_file(to / "config.json"), "config.json"), IntFormat::int4);
  std::set<std::string> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(to))
    files.insert(entry.path().filename().string());
  EXPECT_EQ(files,
            (std::set<std::string>{"config.json", "model.safetensors", "tokenizer.json", "vocabulary.gguf"}));
  EXPECT_EQ(read_file(to / "tokenizer.json"), "{}");
  // One row by hand.
  const std::string name = layer + "mlp.experts.3.gate_proj.weight";
  const auto* row = reinterpret_cast<const uint8_t*>(after.bytes(name).data()) + 5 * 85;
  float scale[2];
  std::memcpy(scale, after.bytes(name + "_scale").data() + 5 * sizeof(scale), sizeof(scale));
  for (int64_t column = 0; column < 160; ++column) {
    float x = 0;
    std::memcpy(&x, before.bytes(name).data() + static_cast<size_t>(5 * 160 + column) * sizeof(x), sizeof(x));
    EXPECT_NEAR(static_cast<float>(int4_element(row, 160, column)) * scale[column / 128], x, 0.04);
  }
}

// The bias alone decides who serves a token. A router of random weights is often undecided, so that the least
// error sends some tokens to other experts, after which no limit holds: of 8 bits the mean divergence is
// 0.014 then, its median 0.001, and noise in the weights does the same.
void fix_experts(const deepseek::NamedWeight& weight) {
  if (!weight.name.ends_with("e_score_correction_bias")) return;
  const std::span<float> biases = weight.tensor.span<float>();
  for (size_t e = 0; e < biases.size(); ++e) biases[e] = static_cast<float>(4 * (e * 5 % biases.size()));
}

// Noise in what is quantized, evenly distributed, `size` times the root mean square of a tensor's numbers.
void add_noise(const deepseek::NamedWeight& weight, double size) {
  if (!int_weight_dtype(weight.name, weight.tensor.extent(-1), IntFormat::int8)) return;
  double squares = 0;
  for (float x : weight.tensor.span<float>()) squares += static_cast<double>(x) * static_cast<double>(x);
  const double range = size * std::sqrt(12 * squares / static_cast<double>(weight.tensor.elements()));
  Random random(7, name_stream(weight.name));
  for (float& x : weight.tensor.span<float>()) x += static_cast<float>(range * (random.uniform() - 0.5));
}

double divergence(Exec& exec, const Tensor& logits, const Tensor& exact) {
  Divergence sums;
  add_divergence(exec, logits, exact, std::vector<int32_t>(static_cast<size_t>(exact.extent(0)), 3), sums);
  return sums.mean();
}

// Quantization costs what noise in the weights does of the size that codes of so many bits round away; of 8
// bits somewhat more, as activations are rounded to 8 bits too.
TEST(Quantize, PredictionsStayNear) {
  Machine machine;
  const test::ScratchFolder scratch;
  write_model(machine.exec, scratch / "model", kDefaultShardBytes, fix_experts);
  const std::vector<int32_t> ids = some_tokens(60);
  const Tensor exact = logits_of(machine.exec, load(machine.exec, scratch / "model"), ids);
  const auto of_noise = [&](double size) {
    const fs::path folder = scratch / fmt::format("noise-{}", size);
    write_model(machine.exec, folder, kDefaultShardBytes, [&](const deepseek::NamedWeight& weight) {
      fix_experts(weight);
      add_noise(weight, size);
    });
    return divergence(machine.exec, logits_of(machine.exec, load(machine.exec, folder), ids), exact);
  };
  const auto of_format = [&](IntFormat format) {
    const fs::path folder = scratch / std::string(int_format_name(format));
    quantize(machine.exec, scratch / "model", folder, format);
    return divergence(machine.exec, logits_of(machine.exec, load(machine.exec, folder), ids), exact);
  };
  const double noise8 = of_noise(0.0058), noise4 = of_noise(0.074);  // what is lost of normal numbers
  const double int8 = of_format(IntFormat::int8), int4 = of_format(IntFormat::int4);
  EXPECT_GT(int8, noise8);
  EXPECT_LT(int8, 4 * noise8);
  EXPECT_GT(int4, noise4 / 4);
  EXPECT_LT(int4, noise4);  // head and latents have 8 bits
}

class QuantizedFolder : public testing::TestWithParam<IntFormat> {};

// The same predictions from the scalar reference, but for tokens with an activation so near the middle
// between two codes that the last bit of what came before decides.
TEST_P(QuantizedFolder, PredictsAsTheReference) {
  Machine machine, reference(1, Device::reference), alone(1);
  const test::ScratchFolder scratch;
  const fs::path folder = scratch / "small";
  write_model(machine.exec, scratch / "model", kDefaultShardBytes, fix_experts);
  quantize(machine.exec, scratch / "model", folder, GetParam());
  const std::vector<int32_t> ids = some_tokens(60);
  const ServedModel served = load(machine.exec, folder);
  const Tensor logits = logits_of(machine.exec, served, ids);
  const Tensor expected = logits_of(reference.exec, load(reference.exec, folder), ids);
  int64_t differ = 0;
  for (int64_t t = 0; t < logits.extent(0); ++t) {
    double most = 0;
    for (int64_t v = 0; v < logits.extent(1); ++v)
      most = std::max(most, std::abs(static_cast<double>(logits.row(t).data<float>()[v]) -
                                     static_cast<double>(expected.row(t).data<float>()[v])));
    differ += most > 1e-5 ? 1 : 0;
    EXPECT_LT(most, 0.2) << t;
  }
  EXPECT_LE(differ, 3);
  const Tensor on_one = logits_of(alone.exec, load(alone.exec, folder), ids);
  EXPECT_TRUE(std::ranges::equal(on_one.span<float>(), logits.span<float>()));
  // A token by the tokens before it in chunks, then as generated; its logprob from logits of codes.
  Engine engine(machine.exec, served, {.cache_dtype = DType::f32, .chunk_tokens = 7});
  const Tensor last = engine.append_prompt({ids.data(), 59});
  const std::span<const float> row = logits.row(58).span<float>();
  EXPECT_TRUE(std::ranges::equal(engine.logits(last).span<float>(), row));
  double sum = 0;
  for (float logit : row) sum += std::exp(static_cast<double>(logit));
  EXPECT_NEAR(engine.logprobs(last, std::array<int32_t, 1>{ids[59]})[0],
              static_cast<double>(row[static_cast<size_t>(ids[59])]) - std::log(sum), 1e-5);
  const Tensor generated = engine.logits(engine.append_generated(ids[59]));
  EXPECT_LT(divergence(machine.exec, generated, logits.rows(59, 60)), 3e-3);  // attention in its other form
}

INSTANTIATE_TEST_SUITE_P(Formats, QuantizedFolder, testing::Values(IntFormat::int8, IntFormat::int4));

// A single large weight takes its block's scale along, and the folder is served all the same.
TEST(Quantize, LargeWeightsAreServed) {
  Machine machine;
  const std::string name = "model.layers.1.self_attn.q_b_proj.weight";
  for (const float large : {17000.0f, 1e20f}) {
    const test::ScratchFolder scratch;
    write_model(machine.exec, scratch / "model", kDefaultShardBytes,
                [&](const deepseek::NamedWeight& weight) {
                  if (weight.name == name) weight.tensor.data<float>()[3] = large;
                });
    for (const IntFormat format : {IntFormat::int8, IntFormat::int4}) {
      const fs::path folder = scratch / std::string(int_format_name(format));
      quantize(machine.exec, scratch / "model", folder, format);
      load(machine.exec, folder);
      const SafetensorsFolder small(folder);
      const std::byte* codes = small.bytes(name).data();
      float scale = 0;
      std::memcpy(&scale, small.bytes(name + "_scale").data(), sizeof(scale));
      const int32_t integer = format == IntFormat::int8
                                  ? static_cast<int32_t>(reinterpret_cast<const int8_t*>(codes)[3])
                                  : int4_element(reinterpret_cast<const uint8_t*>(codes), 96, 3);
      // Of 4 bits a block of one large number and zeros, which have no code beside it, is a compromise.
      EXPECT_NEAR(static_cast<float>(integer) * scale / large, 1, format == IntFormat::int8 ? 1e-3 : 0.06)
          << large << " " << int_format_name(format);
    }
  }
}

void expect_refused_before_work(Exec& exec, const fs::path& model, const std::string& why) {
  const fs::path output = model.string() + "-small";
  const std::string error = error_of([&] {
    quantize_folder(exec, model, output, IntFormat::int8, [](uint64_t, uint64_t) { fail("work has begun"); });
  });
  EXPECT_NE(error.find(why), std::string::npos) << error;
  EXPECT_FALSE(fs::exists(output.string() + ".part"));
}

TEST(Quantize, FilesOutsideAreRefusedBeforeWork) {
  Machine machine;
  const test::ScratchFolder scratch;
  write_model(machine.exec, scratch / "model");
  write_file_atomically(scratch / "elsewhere", "{}");
  fs::create_symlink("../elsewhere", scratch / "model/generation_config.json");
  expect_refused_before_work(machine.exec, scratch / "model",
                             "'generation_config.json' is a link out of the folder");
}

TEST(NeedsLargeFiles, WhatTheDiskLacksRoomForIsRefusedBeforeWork) {
  Machine machine;
  const test::ScratchFolder scratch;
  fs::create_directories(scratch / "model");
  write_file_atomically(scratch / "model/config.json", "{}");
  // More than the disk has room for, of which it holds a few bytes: all but the header is a hole.
  constexpr uint64_t kRowBytes = 2'000'000;
  const uint64_t rows = fs::space(scratch.path()).available / kRowBytes * 5 / 4 + 1000,
                 bytes = rows * kRowBytes;
  std::string header = fmt::format(
      R"({{"model.embed_tokens.weight":{{"dtype":"BF16","shape":[{},1000000],"data_offsets":[0,{}]}}}})",
      rows, bytes);
  header.resize(160, ' ');
  const uint64_t length = header.size();
  const fs::path shard = scratch / "model/model.safetensors";
  write_file_atomically(shard, std::string(reinterpret_cast<const char*>(&length), 8) + header);
  std::error_code error;
  fs::resize_file(shard, 8 + length + bytes, error);
  if (error) GTEST_SKIP() << "a file system without large files: " << error.message();
  try {
    const MappedFile maps(shard);
  } catch (const Error& too_large) {
    GTEST_SKIP() << too_large.what();  // as under ThreadSanitizer with a large disk
  }
  expect_refused_before_work(machine.exec, scratch / "model", "GB are to come, but the disk has room for");
}

TEST(Quantize, GoesOnWhereItWasAndGivesTheSameBytes) {
  Machine machine, other(1);
  const test::ScratchFolder scratch;
  write_model(machine.exec, scratch / "model", 400'000);
  const SafetensorsFolder original(scratch / "model");
  ASSERT_GT(original.files().size(), 3u);
  EXPECT_THROW(quantize_folder(machine.exec, scratch / "model", scratch / "small", IntFormat::int4,
                               [](uint64_t done, uint64_t total) {
                                 if (done > total / 2) fail("the power is gone");
                               }),
               Error);
  EXPECT_FALSE(fs::exists(scratch / "small"));
  EXPECT_NE(error_of([&] {
              quantize(machine.exec, scratch / "model", scratch / "small", IntFormat::int8);
            }).find("another model's or format's"),
            std::string::npos);
  const QuantizeSummary resumed =
      quantize(machine.exec, scratch / "model", scratch / "small", IntFormat::int4);
  EXPECT_GE(resumed.shards_there, 1);
  quantize(other.exec, scratch / "model", scratch / "at-once", IntFormat::int4);
  for (const fs::directory_entry& entry : fs::directory_iterator(scratch / "at-once"))
    EXPECT_EQ(read_file(entry.path()), read_file(scratch / "small" / entry.path().filename()))
        << entry.path();
  load(machine.exec, scratch / "small");
  EXPECT_NE(error_of([&] {
              quantize(machine.exec, scratch / "model", scratch / "small", IntFormat::int4);
            }).find("exists already"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              quantize(machine.exec, scratch / "small", scratch / "again", IntFormat::int4);
            }).find("quantized already"),
            std::string::npos);
}

// The same codes from FP8 as from the numbers that its codes and scales stand for.
TEST(Quantize, Fp8FoldersAreWidened) {
  Machine machine;
  const test::ScratchFolder scratch;
  quantize(machine.exec, kGolden / "v3-fp8", scratch / "small", IntFormat::int8);
  const SafetensorsFolder original(kGolden / "v3-fp8"), small(scratch / "small");
  const auto config = deepseek::ModelConfig::from_json(read_file(scratch / "small/config.json"), "config");
  load_weights(machine.exec, small, plan_weights(small, config, true));
  for (const std::string& name : original.names()) {
    if (original.tensor(name).dtype != "F8_E4M3") continue;
    EXPECT_EQ(small.find(name + "_scale_inv"), nullptr);
    const StoredTensor& stored = original.tensor(name);
    const Tensor wide = Tensor::empty(machine.allocator, {stored.shape[0], stored.shape[1]}, DType::f32);
    read_dequantized(original, name, wide);
    std::vector<int8_t> codes(static_cast<size_t>(wide.elements()));
    std::vector<float> scales(static_cast<size_t>(stored.shape[0] * int_row_scales(stored.shape[1])));
    for (int64_t row = 0; row < stored.shape[0]; ++row)
      ASSERT_TRUE(quantize_row_int8(wide.row(row).span<float>(), codes.data() + row * stored.shape[1],
                                    scales.data() + row * int_row_scales(stored.shape[1])));
    EXPECT_EQ(std::memcmp(codes.data(), small.bytes(name).data(), codes.size()), 0) << name;
    EXPECT_EQ(std::memcmp(scales.data(), small.bytes(name + "_scale").data(), scales.size() * sizeof(float)),
              0);
  }
}

TEST(Quantize, NamesWhatCannotBeQuantized) {
  Machine machine;
  const test::ScratchFolder scratch;
  const auto one = [&](const char* name, const std::vector<NamedTensor>& tensors) {
    const fs::path folder = scratch / name;
    fs::create_directories(folder);
    write_safetensors(folder / "model.safetensors", tensors);
    write_file_atomically(folder / "config.json", "{}");
    return error_of(
        [&] { quantize(machine.exec, folder, scratch / (std::string(name) + "-small"), IntFormat::int4); });
  };
  const Tensor nan = Tensor::zeros(machine.allocator, {4, 64}, DType::f32);
  nan.data<float>()[70] = std::nanf("");
  EXPECT_NE(one("nan", {{"a.q_proj.weight", nan}}).find("'a.q_proj.weight' holds NaN"), std::string::npos);
  EXPECT_NE(one("kept", {{"model.embed_tokens.weight", nan}}).find("'model.embed_tokens.weight' holds NaN"),
            std::string::npos);
  Tensor infinite = Tensor::zeros(machine.allocator, {64}, DType::f32);
  infinite.data<float>()[3] = -INFINITY;
  EXPECT_NE(
      one("norm", {{"a.norm.weight", infinite, DType::bf16}}).find("'a.norm.weight' holds NaN or infinity"),
      std::string::npos);
  const Tensor ints = Tensor::zeros(machine.allocator, {4, 64}, DType::i32);
  EXPECT_NE(one("type", {{"a.q_proj.weight", ints}}).find("'a.q_proj.weight' is I32"), std::string::npos);
  const Tensor codes = Tensor::zeros(machine.allocator, {4, 64}, DType::f8_e4m3);
  EXPECT_NE(one("scale", {{"a.q_proj.weight", codes}}).find("'a.q_proj.weight_scale_inv' are missing"),
            std::string::npos);
  const auto of_method = [](const std::string& method) {
    return error_of(
        [&] { expect_quantizable(R"({"quantization_config": {"quant_method": ")" + method + "\"}}", "x"); });
  };
  EXPECT_NE(
      of_method("compressed-tensors").find("x: quantization_config: quant_method is 'compressed-tensors'"),
      std::string::npos);
}

// The header of a quantized folder's file changed by `edit`, over the same data.
std::string refusal(const fs::path& folder, const std::function<void(nlohmann::ordered_json&)>& edit) {
  const test::ScratchFolder changed;
  const std::string file = read_file(folder / "model.safetensors");
  uint64_t size = 0;
  std::memcpy(&size, file.data(), sizeof(size));
  auto header = nlohmann::ordered_json::parse(file.substr(8, size));
  edit(header);
  const std::string text = header.dump();
  const uint64_t length = text.size();
  write_file_atomically(
      changed / "model.safetensors",
      std::string(reinterpret_cast<const char*>(&length), 8) + text + file.substr(8 + size));
  return error_of([&] { plan_weights(SafetensorsFolder(changed.path()), small_config(), false); });
}

TEST(Quantize, PlansNameScalesThatDoNotFit) {
  Machine machine;
  const test::ScratchFolder scratch;
  write_model(machine.exec, scratch / "model");
  quantize(machine.exec, scratch / "model", scratch / "small", IntFormat::int4);
  const std::string up = "model.layers.1.mlp.experts.3.up_proj.weight";
  EXPECT_EQ(refusal(scratch / "small", [](auto&) {}), "no error");
  EXPECT_NE(refusal(scratch / "small",
                    [&](auto& h) {
                      h["spare"] = h.at(up + "_scale");
                      h.erase(up + "_scale");
                    })
                .find("'" + up + "_scale' is missing"),
            std::string::npos);
  EXPECT_NE(refusal(scratch / "small",
                    [&](auto& h) {
                      h[up + "_scale"]["shape"] = {2, 96};
                    })
                .find("'" + up + "_scale' is [2, 96], expected [96, 2]"),
            std::string::npos);
  EXPECT_NE(refusal(scratch / "small",
                    [&](auto& h) {
                      h[up]["shape"] = {85, 96};
                    })
                .find("'" + up + "' is [85, 96], expected [96, 85]"),
            std::string::npos);
}

}  // namespace
}  // namespace moray
