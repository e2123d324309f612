// After a few steps, training asks the system for no more memory, however the router spreads the tokens.
#include <gtest/gtest.h>

#include "backend/register.h"
#include "base/random.h"
#include "train/trainer.h"

namespace moray {
namespace {

deepseek::ModelConfig small_model() {
  deepseek::ModelConfig config;
  config.vocab_size = 97;
  config.hidden_size = 32;
  config.num_hidden_layers = 2;
  config.first_k_dense_replace = 1;
  config.intermediate_size = 48;
  config.moe_intermediate_size = 16;
  config.n_routed_experts = 8;
  config.num_experts_per_tok = 2;
  config.n_shared_experts = 1;
  config.n_group = 4;
  config.topk_group = 2;
  config.num_attention_heads = 2;
  config.q_lora_rank = 16;
  config.kv_lora_rank = 16;
  config.qk_nope_head_dim = 8;
  config.qk_rope_head_dim = 8;
  config.v_head_dim = 8;
  config.num_nextn_predict_layers = 1;
  config.initializer_range = 0.1;
  return config;
}

// Every token to the same two experts (the balance bias decides), another pair each time.
void skew_routing(Trainer& trainer, int64_t step) {
  const auto skew = [&](deepseek::Block& block) {
    if (!block.is_moe) return;
    const std::span<float> bias_E = block.gate.bias_E.span<float>();
    const size_t favourite = static_cast<size_t>(step) % (bias_E.size() / 2) * 2;  // the two of one group
    std::fill(bias_E.begin(), bias_E.end(), 0.0f);
    bias_E[favourite] = bias_E[favourite + 1] = 10;
  };
  for (deepseek::Block& block : trainer.model().layers) skew(block);
  for (deepseek::MtpModule& module : trainer.model().mtp) skew(module.block);
}

void expect_no_allocation_after_warm_up(const Precision& precision) {
  register_backends();
  Allocator allocator;
  ThreadPool pool(2);
  Exec exec{Device::cpu, &pool, &allocator, DType::f32};
  TrainConfig config;
  config.sequence_length = 40;
  config.tokens = 1 << 30;
  config.batch_size = Schedule(7);
  config.micro_batch = 3;  // and a last one of a single sample
  config.gradient_groups = 2;
  config.isolate_documents = true;
  config.ema_decay = 0.9;
  config.precision = precision;
  const SampleSource source = [](uint64_t n, std::span<int32_t> tokens, std::span<int32_t> starts) {
    Random random(5, n);
    for (int32_t& token : tokens) token = static_cast<int32_t>(random.below(97));
    std::fill(starts.begin(), starts.end(), 0);
  };
  Trainer trainer(exec, small_model(), config);
  constexpr int kWarmUp = 5, kSteps = 24;
  for (int step = 0; step < kWarmUp; ++step) trainer.step(source);
  const size_t asked = allocator.system_allocations(), held = allocator.held_bytes(),
               peak = allocator.peak_bytes();
  for (int64_t step = 0; step < kSteps; ++step) {
    if (step % 2 == 1) skew_routing(trainer, step / 2);
    const StepResult result = trainer.step(source);
    if (step % 2 == 1) {
      const std::vector<int64_t>& load = result.expert_load.front();
      EXPECT_EQ(*std::max_element(load.begin(), load.end()), 7 * 40) << "not as skewed as it can be";
    }
  }
  EXPECT_EQ(allocator.system_allocations(), asked);
  EXPECT_EQ(allocator.held_bytes(), held);
  EXPECT_EQ(allocator.peak_bytes(), peak);
}

TEST(Memory, AStepAllocatesNothingAfterWarmUp) {
  for (const PrecisionKind kind : {PrecisionKind::f32, PrecisionKind::bf16, PrecisionKind::fp8}) {
    SCOPED_TRACE(static_cast<int>(kind));
    expect_no_allocation_after_warm_up({kind, kind == PrecisionKind::fp8, kind == PrecisionKind::fp8});
  }
}

}  // namespace
}  // namespace moray
