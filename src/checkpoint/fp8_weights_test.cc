// What is read is held against PyTorch's float8_e4m3fn and DeepSeek's dequantization
// (tests/golden/fp8_weights).
#include "checkpoint/fp8_weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/test_help.h"
#include "checkpoint/safetensors_writer.h"

namespace moray {
namespace {

using test::error_of;

class Fp8Weights : public testing::Test {
 protected:
  Tensor filled(Shape shape, DType dtype, float value) {
    const Tensor tensor = Tensor::zeros(allocator_, shape, dtype);
    if (dtype == DType::f8_e4m3)
      for (e4m3& x : tensor.span<e4m3>()) x = narrow<e4m3>(value);
    else if (dtype == DType::f32)
      for (float& x : tensor.span<float>()) x = value;
    return tensor;
  }
  SafetensorsFolder folder_of(const std::vector<NamedTensor>& tensors) {
    write_safetensors_folder(folder_.path(), tensors);
    return SafetensorsFolder(folder_.path());
  }
  std::string error_of_weight(const std::vector<NamedTensor>& tensors) {
    const SafetensorsFolder folder = folder_of(tensors);
    const std::string message = error_of([&] { fp8_weight(folder, "a_proj.weight"); });
    const std::string prefix = folder_.path().string() + ": ";
    return message.starts_with(prefix) ? message.substr(prefix.size()) : message;
  }

  test::ScratchFolder folder_;
  Allocator allocator_;
};

TEST_F(Fp8Weights, ReadsWhatPyTorchWrote) {
  const SafetensorsFolder folder(fs::path(MORAY_SOURCE_DIR) / "tests/golden/fp8_weights");
  for (const char* name : {"edge_proj.weight", "small_proj.weight", "exact_proj.weight"}) {
    ASSERT_TRUE(is_fp8_weight(folder, name));
    const Tensor expected = folder.read(std::string("expected.") + name, allocator_, DType::bf16);
    const Tensor got = Tensor::empty(allocator_, expected.shape(), DType::bf16);
    read_dequantized(folder, name, got);
    for (int64_t i = 0; i < got.elements(); ++i)
      ASSERT_EQ(got.data<bf16>()[i].bits, expected.data<bf16>()[i].bits) << name << " " << i;
  }
  expect_no_stray_scales(folder);
}

TEST_F(Fp8Weights, RowsAndTypesAgree) {
  const SafetensorsFolder folder(fs::path(MORAY_SOURCE_DIR) / "tests/golden/fp8_weights");
  const Fp8Weight weight = fp8_weight(folder, "edge_proj.weight");
  ASSERT_EQ(weight.rows, 130);
  ASSERT_EQ(weight.columns, 140);
  const Tensor all = Tensor::empty(allocator_, {130, 140}, DType::f32);
  dequantize_rows(weight, 0, 130, all);
  const Tensor some = Tensor::empty(allocator_, {5, 140}, DType::f64);
  dequantize_rows(weight, 125, 130, some);
  for (int64_t i = 0; i < some.elements(); ++i)
    ASSERT_EQ(some.data<double>()[i], static_cast<double>(all.data<float>()[125 * 140 + i]));
  EXPECT_EQ(all.data<float>()[129 * 140 + 131],
            to_float(weight.codes[129 * 140 + 131]) * weight.scales[3]);  // the last of 2×2 blocks
}

TEST_F(Fp8Weights, OtherTensorsAreReadAsTheyAre) {
  const SafetensorsFolder folder = folder_of({{"a.weight", filled({2, 2}, DType::f32, 1.5)}});
  const Tensor got = Tensor::empty(allocator_, {2, 2}, DType::f64);
  read_dequantized(folder, "a.weight", got);
  EXPECT_EQ(got.data<double>()[3], 1.5);
}

TEST_F(Fp8Weights, NamesWhatIsWrong) {
  const Tensor codes = filled({130, 4}, DType::f8_e4m3, 2), one = filled({2, 1}, DType::f32, 1);
  const auto with = [&](const Tensor& scales) {
    return error_of_weight({{"a_proj.weight", codes}, {"a_proj.weight_scale_inv", scales}});
  };
  EXPECT_EQ(with(one), "no error");
  EXPECT_EQ(error_of_weight({{"a_proj.weight", codes}}),
            "'a_proj.weight' is FP8, but its scales 'a_proj.weight_scale_inv' are missing");
  EXPECT_EQ(
      with(filled({1, 2}, DType::f32, 1)),
      "'a_proj.weight_scale_inv' has shape [1, 2], but the weight is [130, 4] and needs [2, 1] blocks of "
      "128×128");
  EXPECT_EQ(with(filled({2, 1}, DType::u8, 1)), "'a_proj.weight_scale_inv' is U8, expected F32 or BF16");
  for (float bad : {-1.0F, std::numeric_limits<float>::infinity(), std::nanf("")}) {
    const Tensor scales = filled({2, 1}, DType::f32, 1);
    scales.data<float>()[1] = bad;
    EXPECT_EQ(with(scales), fmt::format("'a_proj.weight_scale_inv' holds {} at block 1", bad));
  }
  EXPECT_EQ(error_of_weight({{"a_proj.weight", filled({4}, DType::f8_e4m3, 1)}}),
            "'a_proj.weight' is FP8 of shape [4], expected two dimensions");
  EXPECT_EQ(error_of_weight({{"a_proj.weight", filled({4}, DType::f32, 1)}}),
            "'a_proj.weight' is F32, expected F8_E4M3");
}

TEST_F(Fp8Weights, NanAndStrayScalesAreFound) {
  const Tensor codes = filled({3, 200}, DType::f8_e4m3, 2), scales = filled({1, 2}, DType::f32, 1);
  codes.data<e4m3>()[1 * 200 + 150] = {0xff};
  const SafetensorsFolder folder = folder_of(
      {{"a_proj.weight", codes}, {"a_proj.weight_scale_inv", scales}, {"b.weight_scale_inv", scales}});
  const Tensor into = Tensor::empty(allocator_, {3, 200}, DType::f32);
  EXPECT_EQ(error_of([&] { read_dequantized(folder, "a_proj.weight", into); }),
            folder_.path().string() + ": 'a_proj.weight' holds NaN at [1, 150]");
  EXPECT_EQ(error_of([&] { read_dequantized(folder, "a_proj.weight", into.rows(0, 2)); }),
            folder_.path().string() + ": the tensor 'a_proj.weight' has shape [3, 200], [2, 200] expected");
  EXPECT_EQ(
      error_of([&] { expect_no_stray_scales(folder); }),
      folder_.path().string() + ": 'b.weight_scale_inv' are the scales of 'b.weight', which is missing");
}

TEST(Fp8Folders, KeepInFp8WhatThePublishedOnesDo) {
  for (const char* name :
       {"model.layers.0.self_attn.q_a_proj.weight", "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.q_b_proj.weight", "model.layers.0.self_attn.kv_a_proj_with_mqa.weight",
        "model.layers.0.self_attn.kv_b_proj.weight", "model.layers.0.self_attn.o_proj.weight",
        "model.layers.0.mlp.gate_proj.weight", "model.layers.3.mlp.experts.255.down_proj.weight",
        "model.layers.3.mlp.shared_experts.up_proj.weight"})
    EXPECT_TRUE(is_fp8_in_published_folders(name)) << name;
  for (const char* name :
       {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight", "model.layers.3.mlp.gate.weight",
        "model.layers.3.mlp.gate.e_score_correction_bias", "model.layers.0.input_layernorm.weight",
        "model.layers.0.self_attn.kv_a_layernorm.weight", "model.layers.61.eh_proj.weight",
        "model.layers.61.enorm.weight", "model.layers.61.shared_head.head.weight",
        "model.layers.61.embed_tokens.weight"})
    EXPECT_FALSE(is_fp8_in_published_folders(name)) << name;
}

TEST(Fp8Folders, SchemeInConfigJson) {
  EXPECT_FALSE(read_fp8_scheme("{}", "c"));
  EXPECT_FALSE(read_fp8_scheme(R"({"quantization_config": null})", "c"));
  // As in DeepSeek-V3 and DeepSeek-V3.1.
  const auto scheme = [](const char* further) {
    return fmt::format(R"({{"quantization_config": {{"activation_scheme": "dynamic", "fmt": "e4m3",
      "quant_method": "fp8"{}, "weight_block_size": [128, 128]}}}})",
                       further);
  };
  EXPECT_EQ(read_fp8_scheme(scheme(""), "c")->scales, ScaleFormat::fp32);
  EXPECT_EQ(read_fp8_scheme(scheme(R"(, "scale_fmt": "ue8m0")"), "c")->scales, ScaleFormat::power_of_two);
  for (ScaleFormat format : {ScaleFormat::fp32, ScaleFormat::power_of_two}) {
    const std::string text = with_fp8_scheme(R"({"b": 1, "a": [2]})", {format});
    EXPECT_TRUE(text.starts_with("{\n  \"b\": 1,\n  \"a\": [")) << text;
    EXPECT_EQ(read_fp8_scheme(text, "c")->scales, format);
  }
  const auto error = [](const std::string& inside) {
    return error_of([&] { read_fp8_scheme(fmt::format(R"({{"quantization_config": {}}})", inside), "c"); });
  };
  EXPECT_EQ(error(R"({"quant_method": "compressed-tensors"})"),
            "c: quantization_config: quant_method is 'compressed-tensors'; only 'fp8' is read");
  EXPECT_EQ(error(R"({"quant_method": "fp8", "fmt": "e5m2", "weight_block_size": [128, 128]})"),
            "c: quantization_config: fmt is 'e5m2'; only 'e4m3' is read");
  EXPECT_EQ(error(R"({"quant_method": "fp8", "weight_block_size": [64, 128]})"),
            "c: quantization_config: weight_block_size is [64,128]; only [128, 128] is read");
  EXPECT_EQ(error(R"({"quant_method": "fp8", "weight_block_size": [128, 128], "scale_fmt": "fp6"})"),
            "c: quantization_config: scale_fmt is 'fp6'; only 'ue8m0' is known");
  EXPECT_NE(error("7"), "no error");
}

}  // namespace
}  // namespace moray
