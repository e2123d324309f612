// Losses held against ops/quantize.h there and back, and against a case whose errors are known.
#include "numerics/tensors.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "backend/register.h"
#include "base/random.h"
#include "base/test_help.h"
#include "checkpoint/fp8_weights.h"
#include "checkpoint/safetensors_writer.h"
#include "ops/quantize.h"

namespace moray::numerics {
namespace {

using test::error_of;

class Tensors : public testing::Test {
 protected:
  Tensors() { register_backends(); }

  Tensor normal(Shape shape, uint64_t seed, float outlier = 0) {
    const Tensor tensor = Tensor::empty(allocator_, shape, DType::f32);
    Random random(seed, 0);
    for (float& x : tensor.span<float>()) x = static_cast<float>(0.02 * random.normal());
    if (outlier != 0) tensor.data<float>()[tensor.elements() / 2] = outlier;
    return tensor;
  }
  fs::path written(const std::vector<NamedTensor>& tensors) {
    write_safetensors(folder_ / "model.safetensors", tensors);
    return folder_.path();
  }
  std::vector<TensorLoss> study(const fs::path& path) {
    return study_tensors(path, pool_, [](int64_t) {});
  }

  test::ScratchFolder folder_;
  Allocator allocator_;
  ThreadPool pool_{2};
  Exec exec_{Device::reference, &pool_, &allocator_, DType::f32};
};

TEST_F(Tensors, LoseWhatTheQuantizerLoses) {
  const Tensor x = normal({150, 300}, 1, 3.5f);
  const std::vector<TensorLoss> losses = study(written({{"a", x}}));
  ASSERT_EQ(losses.size(), 1u);
  for (const auto& [sharing, tiling] :
       {std::pair(Sharing::tile, Tiling::row_tiles), std::pair(Sharing::block, Tiling::blocks)})
    for (ScaleFormat format : kScaleFormats) {
      const auto q = QuantizedTensor::empty(allocator_, x.shape(), CodeFormat::f8_e4m3, tiling, format);
      ASSERT_FALSE(quantize(exec_, x, q).any());
      const Tensor back = Tensor::empty(allocator_, x.shape(), DType::f32);
      dequantize(exec_, q, back);
      double error = 0, squares = 0, greatest = 0;
      int64_t zeroed = 0;
      for (int64_t i = 0; i < x.elements(); ++i) {
        const double exact = x.data<float>()[i],
                     difference = exact - static_cast<double>(back.data<float>()[i]);
        error += difference * difference, squares += exact * exact;
        greatest = std::max(greatest, std::abs(difference));
        zeroed += back.data<float>()[i] == 0;
      }
      EXPECT_NEAR(losses[0].relative_error(sharing, format), std::sqrt(error / squares), 1e-12);
      EXPECT_EQ(losses[0].loss(sharing, format).zeroed, zeroed);
      EXPECT_EQ(losses[0].loss(sharing, format).greatest, greatest);
    }
  EXPECT_EQ(losses[0].greatest, 3.5f);
  EXPECT_EQ(losses[0].greatest_row, 75);
  EXPECT_EQ(losses[0].greatest_column, 0);
  EXPECT_EQ(losses[0].far_out, 1);
}

// 448 and 1 + 2⁻⁴: codes 448 and 1, an error of 2⁻⁴, wherever both share a scale of 1.
TEST_F(Tensors, KnownErrors) {
  const Tensor x = Tensor::zeros(allocator_, {129, 130}, DType::f32);
  x.data<float>()[0] = 448;
  x.data<float>()[128 * 130 + 129] = 1 + 0x1p-4f;
  const TensorLoss loss = study(written({{"a", x}}))[0];
  EXPECT_EQ(loss.loss(Sharing::tensor, ScaleFormat::fp32).squares, 0x1p-8);
  EXPECT_EQ(loss.loss(Sharing::tensor, ScaleFormat::power_of_two).squares, 0x1p-8);
  EXPECT_EQ(loss.loss(Sharing::block, ScaleFormat::fp32).greatest, 0);  // its own largest there
  EXPECT_NEAR(loss.relative_error(Sharing::tensor, ScaleFormat::fp32), 0x1p-4 / std::hypot(448, 1.0625),
              1e-15);
}

TEST_F(Tensors, AnOutlierHurtsWhateverSharesItsScale) {
  const TensorLoss loss = study(written({{"a", normal({256, 256}, 2, 300)}}))[0];
  const auto zeroed = [&](Sharing sharing) { return loss.loss(sharing, ScaleFormat::fp32).zeroed; };
  EXPECT_GT(zeroed(Sharing::tile), 0);
  EXPECT_LE(zeroed(Sharing::tile), 128);
  EXPECT_GT(zeroed(Sharing::block), 20 * zeroed(Sharing::tile));
  EXPECT_GT(zeroed(Sharing::tensor), 3 * zeroed(Sharing::block));
}

TEST_F(Tensors, WhatIsStudied) {
  const Tensor x = normal({3, 130}, 3);
  const auto q =
      QuantizedTensor::empty(allocator_, x.shape(), CodeFormat::f8_e4m3, Tiling::blocks, ScaleFormat::fp32);
  ASSERT_FALSE(quantize(exec_, x, q).any());
  const fs::path path = written({{"a_proj.weight", q.codes},
                                 {"a_proj.weight_scale_inv", q.scales},
                                 {"b.weight", x, DType::bf16},
                                 {"norm", normal({8}, 4)}});
  EXPECT_EQ(elements_to_study(path), 2 * 3 * 130);
  const std::vector<TensorLoss> losses = study(path);
  ASSERT_EQ(losses.size(), 2u);
  EXPECT_EQ(losses[0].name, "a_proj.weight");
  EXPECT_LT(losses[0].relative_error(Sharing::block, ScaleFormat::fp32), 1e-7);  // once is enough
  EXPECT_GT(losses[1].relative_error(Sharing::block, ScaleFormat::fp32), 0.01);
  const std::string table = tensors_table(losses, 1, true);
  EXPECT_NE(table.find("E4M3 quantization of 2 tensors, 780 elements"), std::string::npos) << table;
  EXPECT_NE(table.find("b *"), std::string::npos) << table;
  EXPECT_NE(
      error_of([&] { study(path / "model.safetensors"); }).find("'a_proj.weight' is FP8; give the folder"),
      std::string::npos);
}

TEST_F(Tensors, NamesWhatIsNotFinite) {
  const Tensor x = normal({3, 4}, 5), zero = Tensor::zeros(allocator_, {3, 4}, DType::f32);
  x.data<float>()[6] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(error_of([&] {
              study(written({{"fine", zero}, {"bad", x}}));
            }),
            folder_.path().string() + ": 'bad' holds inf at [1, 2]");
  EXPECT_EQ(study(written({{"fine", zero}}))[0].relative_error(Sharing::tile, ScaleFormat::fp32), 0);
}

TEST(TensorKind, LeavesNumbersOut) {
  EXPECT_EQ(tensor_kind("model.layers.3.mlp.experts.17.up_proj.weight"), "mlp.experts.*.up_proj");
  EXPECT_EQ(tensor_kind("model.layers.61.self_attn.o_proj.weight"), "self_attn.o_proj");
  EXPECT_EQ(tensor_kind("model.embed_tokens.weight"), "embed_tokens");
  EXPECT_EQ(tensor_kind("lm_head.weight"), "lm_head");
}

}  // namespace
}  // namespace moray::numerics
