// Layers in BF16 and FP8: the cpu's bits are the reference's, and results are as near to FP32's as the
// formats allow.
#include "nn/precision.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "backend/register.h"
#include "base/random.h"
#include "nn/experts.h"
#include "nn/mlp.h"
#include "ops/elementwise.h"

namespace moray {
namespace {

constexpr int64_t kSamples = 2, kLength = 150, kTokens = kSamples * kLength, kInputs = 160, kOutputs = 136;
constexpr SampleRows kRows{kSamples, kLength, 0, 1};

class InPrecision : public testing::Test {
 protected:
  static void SetUpTestSuite() { register_backends(); }

  Exec exec(Device device, const Precision& precision) {
    return {.device = device, .pool = &pool_, .allocator = &allocator_, .dtype = precision.activations()};
  }
  Tensor random(Shape shape, uint64_t stream, double scale = 1) {
    const Tensor tensor = Tensor::empty(allocator_, shape, DType::f32);
    Random source(5, stream);
    for (float& value : tensor.span<float>()) value = static_cast<float>(scale * source.normal());
    return tensor;
  }
  Tensor as_activation(Exec& exec, const Tensor& wide) {
    Tensor tensor = exec.empty(wide.shape());
    convert(exec, wide, tensor);
    return tensor;
  }
  // A weight, and its codes where the precision has FP8.
  QuantizedTensor codes_of(Exec& exec, const Tensor& weight, const Precision& precision) {
    if (!precision.fp8()) return {};
    const QuantizedTensor q = QuantizedTensor::empty(allocator_, weight.shape(), CodeFormat::f8_e4m3,
                                                     Tiling::blocks, precision.scales);
    EXPECT_FALSE(quantize(exec, weight, q).any());
    return q;
  }
  Linear linear(Exec& exec, Shape shape, uint64_t stream, const Precision& precision) {
    const Tensor weight = random(shape, stream, 0.1);
    return {precision.fp8() ? weight : as_activation(exec, weight), codes_of(exec, weight, precision),
            precision};
  }

  // y, dx, dw
  std::vector<Tensor> run_linear(Device device, const Precision& precision) {
    Exec on = exec(device, precision);
    const Linear layer = linear(on, {kOutputs, kInputs}, 1, precision);
    Linear gradient{Tensor::zeros(allocator_, {1, kOutputs, kInputs}, DType::f32)};
    Linear::Saved saved;
    Linear::Deferred deferred;
    const Tensor y = layer.forward(on, as_activation(on, random({kTokens, kInputs}, 2)), saved);
    const Tensor dx = layer.backward_input(on, as_activation(on, random({kTokens, kOutputs}, 3)),
                                           std::move(saved), deferred);
    layer.backward_weight(on, std::move(deferred), kRows, gradient);
    return {y, dx, gradient.weight_OI};
  }

  // y, dx, and the gradients of the three weights
  std::vector<Tensor> run_mlp(Device device, const Precision& precision) {
    Exec on = exec(device, precision);
    const Shape up{kOutputs, kInputs}, down{kInputs, kOutputs};
    const Mlp layer{linear(on, up, 1, precision), linear(on, up, 2, precision),
                    linear(on, down, 3, precision), precision};
    const auto zeros = [&](Shape s) {
      return Linear{Tensor::zeros(allocator_, {1, s[0], s[1]}, DType::f32)};
    };
    Mlp gradient{zeros(up), zeros(up), zeros(down)};
    Mlp::Saved saved;
    Mlp::Deferred deferred;
    const Tensor y = layer.forward(on, as_activation(on, random({kTokens, kInputs}, 4)), saved);
    const Tensor dx = layer.backward_input(on, as_activation(on, random({kTokens, kInputs}, 5)),
                                           std::move(saved), deferred);
    layer.backward_weight(on, std::move(deferred), kRows, gradient);
    return {y, dx, gradient.gate_proj.weight_OI, gradient.up_proj.weight_OI, gradient.down_proj.weight_OI};
  }

  // y, dx, gates' gradients, and the gradients of the three weights; dispatched as codes in FP8
  std::vector<Tensor> run_experts(Device device, const Precision& precision) {
    Exec on = exec(device, precision);
    const Shape up{3, kOutputs, kInputs}, down{3, kInputs, kOutputs};
    const auto weight = [&](Shape shape, uint64_t stream) {
      const Tensor wide = random(shape, stream, 0.1);
      return precision.fp8() ? wide : as_activation(on, wide);
    };
    Experts layer{weight(up, 1), weight(up, 2), weight(down, 3)};
    layer.precision = precision;
    layer.gate_proj_fp8 = codes_of(on, layer.gate_proj_EFD, precision);
    layer.up_proj_fp8 = codes_of(on, layer.up_proj_EFD, precision);
    layer.down_proj_fp8 = codes_of(on, layer.down_proj_EDF, precision);
    ExpertRows rows{on.empty_i32({7}), 3, 2};  // the second expert has no rows
    std::ranges::copy(std::vector<int32_t>{0, 100, 130, 130, 130, 131, kTokens},
                      rows.offsets_ES.data<int32_t>());
    const auto sent = [&](const Tensor& wide, CodeForm form) {
      return Activation(as_activation(on, wide))
          .kept(on, TensorClass::swiglu_inputs, precision.when_fp8(form), ScaleFormat::power_of_two);
    };
    const Tensor router_gate = random({kTokens}, 6), drouter_gate = on.empty_wide({kTokens});
    Experts gradient{Tensor::zeros(allocator_, up, DType::f32), Tensor::zeros(allocator_, up, DType::f32),
                     Tensor::zeros(allocator_, down, DType::f32)};
    Experts::Saved saved;
    Experts::Deferred deferred;
    const Tensor y = layer.forward(on, sent(random({kTokens, kInputs}, 4), precision.dispatch), rows, saved);
    const Tensor dx =
        layer.backward_input(on, sent(random({kTokens, kInputs}, 5), precision.dispatch_gradient), rows,
                             router_gate, drouter_gate, std::move(saved), deferred);
    layer.backward_weight(on, std::move(deferred), rows, gradient);
    return {y, dx, drouter_gate, gradient.gate_proj_EFD, gradient.up_proj_EFD, gradient.down_proj_EDF};
  }

  static float element(const Tensor& tensor, int64_t i) {
    return tensor.dtype() == DType::bf16 ? to_float(tensor.data<bf16>()[i]) : tensor.data<float>()[i];
  }
  static double relative_error(const Tensor& got, const Tensor& expected) {
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < got.elements(); ++i) {
      const double a = static_cast<double>(element(got, i)), b = static_cast<double>(element(expected, i));
      difference += (a - b) * (a - b);
      norm += b * b;
    }
    return std::sqrt(difference / norm);
  }
  static bool same_bits(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
    for (size_t i = 0; i < a.size(); ++i)
      if (std::memcmp(a[i].raw(), b[i].raw(), a[i].bytes()) != 0) return false;
    return true;
  }

  Allocator allocator_;
  ThreadPool pool_{2};
};

constexpr Precision kF32{}, kBf16{PrecisionKind::bf16}, kFp8{PrecisionKind::fp8};

// Rounding to nearest of a number with n bits after its first errs by 2⁻ⁿ⁻¹ at most and about 0.4 of that in
// the mean: E4M3 by 2.6%, an operand of two that are added in random directions by √2 of it.
constexpr double kFp8Error = 0.05, kBf16Error = 0.004;

TEST_F(InPrecision, LinearHasTheReferencesBits) {
  for (const Precision& precision : {kF32, kBf16, kFp8})
    EXPECT_TRUE(same_bits(run_linear(Device::cpu, precision), run_linear(Device::reference, precision)));
}

TEST_F(InPrecision, LayersAreNearFp32) {
  const auto check = [&](const auto& run) {
    const std::vector<Tensor> exact = run(Device::cpu, kF32);
    for (const auto& [precision, allowed] :
         {std::pair{kBf16, 3 * kBf16Error}, std::pair{kFp8, 2 * kFp8Error}})
      for (const Device device : {Device::cpu, Device::reference}) {
        const std::vector<Tensor> got = run(device, precision);
        for (size_t i = 0; i < got.size(); ++i) {
          const double error = relative_error(got[i], exact[i]);
          EXPECT_LT(error, allowed) << "result " << i << " on " << device_name(device);
          EXPECT_GT(error, precision.fp8() ? 0.01 : 1e-4) << "result " << i << ": rounded less than promised";
        }
      }
  };
  check([&](Device device, const Precision& p) { return run_linear(device, p); });
  check([&](Device device, const Precision& p) { return run_mlp(device, p); });
  check([&](Device device, const Precision& p) { return run_experts(device, p); });
}

// Re-tiled from kept codes with scales of powers of two, or quantized from BF16: nearly the same gradient.
TEST_F(InPrecision, WhatIsKeptAsCodesServesTheWeightsGradient) {
  Precision kept_bf16 = kFp8, powers = kFp8;
  kept_bf16.linear_inputs = {};
  powers.scales = ScaleFormat::power_of_two;
  const std::vector<Tensor> as_codes = run_linear(Device::cpu, kFp8),
                            direct = run_linear(Device::cpu, kept_bf16);
  EXPECT_TRUE(same_bits({as_codes[0], as_codes[1]}, {direct[0], direct[1]}));
  EXPECT_FALSE(same_bits({as_codes[2]}, {direct[2]}));
  const Tensor exact = run_linear(Device::cpu, kF32)[2];
  EXPECT_LT(relative_error(direct[2], exact), relative_error(as_codes[2], exact));
  EXPECT_LT(relative_error(run_linear(Device::cpu, powers)[2], exact), relative_error(as_codes[2], exact));
}

}  // namespace
}  // namespace moray
