// The trainer's results to the last bit: whatever the threads, micro-batches and instruction set.
#include <gtest/gtest.h>

#include "backend/cpu/register.h"
#include "backend/register.h"
#include "base/files.h"
#include "base/random.h"
#include "train/trainer.h"

namespace moray {
namespace {

deepseek::ModelConfig small_model() {
  deepseek::ModelConfig config;
  config.vocab_size = 211;
  config.hidden_size = 40;
  config.num_hidden_layers = 3;
  config.first_k_dense_replace = 1;
  config.intermediate_size = 72;
  config.moe_intermediate_size = 24;
  config.n_routed_experts = 8;
  config.num_experts_per_tok = 3;
  config.n_shared_experts = 1;
  config.n_group = 4;
  config.topk_group = 2;
  config.num_attention_heads = 3;
  config.q_lora_rank = 24;
  config.kv_lora_rank = 16;
  config.qk_nope_head_dim = 12;
  config.qk_rope_head_dim = 8;
  config.v_head_dim = 10;
  config.num_nextn_predict_layers = 1;
  config.initializer_range = 0.1;
  return config;
}

struct Layout {
  int threads = 1;
  int64_t micro_batch = 8;
  const char* simd = nullptr;
};

// What a run leaves behind: a checksum of all weights, moments and averages, and the loss bits of every step.
struct Trace {
  std::vector<double> losses;
  std::vector<double> norms;
  uint64_t state = 0;
  bool operator==(const Trace&) const = default;
};

Trace train(const Layout& layout, int64_t gradient_groups, bool isolate_documents, DType moments = DType::f32,
            Precision precision = {}, QuantizationCounts* counts = nullptr) {
  const char* before = cpu::simd_name();
  if (layout.simd != nullptr && !cpu::force_simd(layout.simd)) return {};
  Allocator allocator;
  ThreadPool pool(layout.threads);
  Exec exec{Device::cpu, &pool, &allocator, DType::f32};
  TrainConfig config;
  config.sequence_length = 150;  // not a multiple of 128: blocks restart inside
  config.tokens = 1 << 30;
  config.batch_size = Schedule(6);
  config.micro_batch = layout.micro_batch;
  config.gradient_groups = gradient_groups;
  config.isolate_documents = isolate_documents;
  config.ema_decay = 0.9;
  config.optimizer.moment_dtype = moments;
  config.precision = precision;
  const SampleSource source = [](uint64_t n, std::span<int32_t> tokens, std::span<int32_t> starts) {
    Random random(3, n);
    for (int32_t& token : tokens) token = static_cast<int32_t>(random.below(random.below(211) + 1));
    for (size_t t = 0; t < starts.size(); ++t) starts[t] = t < 70 ? 0 : 70;
  };
  Trace trace;
  {
    Trainer trainer(exec, small_model(), config);
    for (int step = 0; step < 4; ++step) {
      const StepResult result = trainer.step(source, counts);
      trace.losses.push_back(result.loss + result.mtp_loss[0] + result.balance_loss);
      trace.norms.push_back(result.grad_norm);
    }
    for (deepseek::Model* tree : {&trainer.model(), &trainer.optimizer().first_moments(),
                                  &trainer.optimizer().second_moments(), trainer.average()})
      for (const deepseek::NamedWeight& weight : deepseek::named_weights(*tree))
        if (weight.tensor.defined())
          trace.state = mix64(trace.state, checksum({weight.tensor.raw(), weight.tensor.bytes()}));
  }
  cpu::force_simd(before);
  return trace;
}

constexpr Layout kLayouts[] = {{2, 8}, {4, 8}, {1, 1},         {2, 2},
                               {3, 4}, {2, 5}, {2, 3, "avx2"}, {1, 6, "avx512"}};

class SameBits : public testing::TestWithParam<int64_t> {
 protected:
  static void SetUpTestSuite() { register_backends(); }
};

TEST_P(SameBits, WhateverTheLayout) {
  const int64_t groups = GetParam();
  const bool isolate = groups == 1;
  const DType moments = groups == 1 ? DType::f32 : DType::bf16;
  const Trace expected = train({}, groups, isolate, moments);
  EXPECT_LT(expected.losses.back(), expected.losses.front());
  for (const Layout& layout : kLayouts) {
    const Trace trace = train(layout, groups, isolate, moments);
    if (trace.losses.empty()) continue;  // the machine has no such instruction set
    EXPECT_EQ(trace, expected) << layout.threads << " threads, micro-batches of " << layout.micro_batch
                               << ", " << (layout.simd ? layout.simd : "best instruction set");
  }
}

INSTANTIATE_TEST_SUITE_P(GradientGroups, SameBits, testing::Values(1, 2, 3));

class SameBitsInPrecision : public testing::TestWithParam<PrecisionKind> {
 protected:
  static void SetUpTestSuite() { register_backends(); }
};

// SameBits holds f32.
TEST_P(SameBitsInPrecision, WhateverTheLayout) {
  const Precision precision{GetParam()};
  const Trace expected = train({}, 2, true, DType::bf16, precision);
  EXPECT_LT(expected.losses.back(), expected.losses.front());
  EXPECT_NE(expected.state, train({}, 2, true, DType::bf16).state);
  for (const Layout& layout : kLayouts) {
    const Trace trace = train(layout, 2, true, DType::bf16, precision);
    if (trace.losses.empty()) continue;  // the machine has no such instruction set
    EXPECT_EQ(trace, expected) << layout.threads << " threads, micro-batches of " << layout.micro_batch
                               << ", " << (layout.simd ? layout.simd : "best instruction set");
  }
}

INSTANTIATE_TEST_SUITE_P(Precisions, SameBitsInPrecision,
                         testing::Values(PrecisionKind::bf16, PrecisionKind::fp8));

class Recomputation : public testing::TestWithParam<PrecisionKind> {
 protected:
  static void SetUpTestSuite() { register_backends(); }
};

// What the backward pass computes again has the bits of what it would have kept; with FP8 products too.
TEST_P(Recomputation, HasTheBitsOfWhatIsKept) {
  Precision precision{GetParam()};
  const Trace expected = train({}, 1, false, DType::f32, precision);
  precision.recompute_norms = true;
  EXPECT_EQ(train({}, 1, false, DType::f32, precision), expected);
  precision.recompute_mla_up = true;
  EXPECT_EQ(train({}, 1, false, DType::f32, precision), expected);
  precision.recompute_norms = false;
  EXPECT_EQ(train({}, 1, false, DType::f32, precision), expected);
}

INSTANTIATE_TEST_SUITE_P(Precisions, Recomputation,
                         testing::Values(PrecisionKind::f32, PrecisionKind::bf16, PrecisionKind::fp8));

// Every choice of an FP8 recipe has a part in the result.
TEST(SameBits, EachChoiceOfFp8Counts) {
  register_backends();
  Precision fp8{PrecisionKind::fp8};
  const Trace expected = train({}, 1, false, DType::f32, fp8);
  const auto differs = [&](auto change) {
    Precision changed = fp8;
    change(changed);
    const Trace trace = train({}, 1, false, DType::f32, changed);
    EXPECT_NEAR(trace.losses.back(), expected.losses.back(), 0.01 * expected.losses.back());
    return trace.state != expected.state;
  };
  EXPECT_TRUE(differs([](Precision& p) { p.scales = ScaleFormat::power_of_two; }));
  EXPECT_TRUE(differs([](Precision& p) { p.linear_inputs = {}; }));
  EXPECT_TRUE(differs([](Precision& p) { p.attention_output = {}; }));
  EXPECT_TRUE(differs([](Precision& p) { p.swiglu_inputs = {}; }));
  EXPECT_TRUE(differs([](Precision& p) { p.dispatch = {}; }));
  EXPECT_TRUE(differs([](Precision& p) { p.dispatch_gradient = {}; }));
  for (unsigned part = 0; part < kPartNames.size(); ++part)
    EXPECT_TRUE(differs([&](Precision& p) { p.high_precision ^= static_cast<uint8_t>(1u << part); }))
        << kPartNames[part];
}

// Counting what is quantized changes no bit, and meets every class.
TEST(SameBits, CountedOrNot) {
  register_backends();
  QuantizationCounts counts;
  const Precision fp8{PrecisionKind::fp8};
  EXPECT_EQ(train({}, 1, false, DType::f32, fp8, &counts), train({}, 1, false, DType::f32, fp8));
  for (size_t i = 0; i < kTensorClasses; ++i) {
    const CodeCounts& codes = counts.classes[i];
    const char* name = tensor_class_name(static_cast<TensorClass>(i));
    EXPECT_GT(codes.elements, 0) << name;
    EXPECT_LT(codes.underflow_share(), 0.1) << name;
  }
}

// Those tests can fail: another order of sums gives other bits.
TEST(SameBits, GradientGroupsChangeTheOrder) {
  register_backends();
  EXPECT_NE(train({}, 1, false).state, train({}, 2, false).state);
}

}  // namespace
}  // namespace moray
