// What is said of activation memory against what blocks keep, by kind, and what the allocator has handed out.
#include "models/deepseek/activation_memory.h"

#include <gtest/gtest.h>

#include "backend/register.h"
#include "models/deepseek/compute_copy.h"
#include "models/deepseek/training.h"

namespace moray::deepseek {
namespace {

ModelConfig small_model(bool q_lora) {
  ModelConfig config;
  config.vocab_size = 64;
  config.hidden_size = 256;
  config.num_hidden_layers = 2;
  config.first_k_dense_replace = 1;
  config.intermediate_size = 384;
  config.moe_intermediate_size = 128;
  config.n_routed_experts = 8;
  config.num_experts_per_tok = 4;
  config.n_shared_experts = 1;
  config.num_attention_heads = 4;
  config.q_lora_rank = q_lora ? 128 : 0;
  config.kv_lora_rank = 64;
  config.qk_nope_head_dim = 32;
  config.qk_rope_head_dim = 16;
  config.v_head_dim = 32;
  return config;
}

// Rows and widths whose tensors the allocator need not round up.
constexpr SampleRows kRows{.samples = 2, .rows_per_sample = 64};

// What a MoE layer's allocations are larger than its tensors: the offsets of its dispatch plan and the
// fractions of its samples are not whole blocks of memory.
constexpr int64_t kRounding = 128;

// Without the keys of the FP8 recipe.
std::vector<Precision> kinds() {
  return {{PrecisionKind::f32},
          {PrecisionKind::bf16},
          {PrecisionKind::fp8},
          {PrecisionKind::bf16, true, true},
          {PrecisionKind::fp8, true, true}};
}

std::vector<Precision> precisions() {
  std::vector<Precision> all = kinds();
  const auto undo = [&](auto change) {
    all.push_back({PrecisionKind::fp8, true, true});
    change(all.back());
  };
  undo([](Precision& p) { p.recompute_norms = p.recompute_mla_up = false, p.linear_inputs = {}; });
  undo([](Precision& p) { p.attention_output = {}; });
  undo([](Precision& p) { p.swiglu_inputs = {}; });
  undo([](Precision& p) { p.dispatch = {}; });
  for (unsigned part = 0; part < kPartNames.size(); ++part)
    for (const bool recompute : {false, true})
      undo([&](Precision& p) {
        p.recompute_norms = p.recompute_mla_up = recompute;
        p.high_precision = static_cast<uint8_t>(1u << part);
      });
  return all;
}

// Kinds in one order.
KeptItems sorted(KeptItems items) {
  std::ranges::sort(items, {}, &KeptItem::kind);
  return items;
}

std::string text(const KeptItems& items) {
  std::string lines;
  for (const KeptItem& item : sorted(items)) lines += item.kind + " " + std::to_string(item.bytes) + "\n";
  return lines;
}

// A compute copy in one precision, with memory of its own.
struct Prepared {
  Prepared(const ModelConfig& config, const Precision& precision)
      : master(allocate_model(exec, config)),
        model(allocate_compute_copy(exec, master, precision)),
        rope(make_rope_table(exec, config, kRows.rows_per_sample)) {
    initialize(exec, master, 1);
    refresh_compute_copy(exec, master, model);
    gradients = allocate_gradients(exec, master, kRows.gradient_groups);
    exec.dtype = precision.activations();
  }

  Allocator allocator;
  ThreadPool pool{1};
  Exec exec{Device::cpu, &pool, &allocator, DType::f32};
  Model master, model, gradients;
  RopeTable rope;
};

TEST(ActivationMemory, IsWhatBlocksKeep) {
  register_backends();
  for (const bool q_lora : {true, false})
    for (const Precision& precision : precisions()) {
      const ModelConfig config = small_model(q_lora);
      Prepared prepared(config, precision);
      const LayerContext context{kRows, {kRows.samples, kRows.rows_per_sample, {}}, prepared.rope};
      for (const Block& block : prepared.model.layers) {
        RoutingStats stats;
        stats.load.resize(static_cast<size_t>(config.n_routed_experts));
        const int64_t before = static_cast<int64_t>(prepared.allocator.live_bytes());
        Block::Saved saved;
        {
          Tensor x_TD = prepared.exec.empty({kRows.rows(), config.hidden_size});
          x_TD.fill_zero();
          block.forward(prepared.exec, x_TD, context, saved, stats);
        }
        const KeptItems said = kept_by_block(config, block.is_moe, precision, kRows);
        EXPECT_EQ(text(said), text(count_kept(saved)));
        const int64_t lived = static_cast<int64_t>(prepared.allocator.live_bytes()) - before;
        EXPECT_GE(lived, total_bytes(said));
        EXPECT_LE(lived, total_bytes(said) + (block.is_moe ? kRounding : 0));
      }
    }
}

// A whole micro-batch: nothing is left over that no layer accounts for, whatever the depth of MTP.
TEST(ActivationMemory, IsWhatTheForwardPassLeaves) {
  register_backends();
  for (const int64_t depths : {0, 1, 2})
    for (const Precision& precision : kinds()) {
      ModelConfig config = small_model(true);
      config.num_nextn_predict_layers = depths;
      Prepared prepared(config, precision);
      MicroBatch batch;
      batch.rows = kRows;
      for (int64_t shift = 0; shift < 2 + depths; ++shift) {
        batch.shifted_T.push_back(prepared.exec.empty_i32({kRows.rows()}));
        batch.shifted_T.back().fill_zero();
      }
      BatchStats stats = make_batch_stats(config);
      forward_backward(prepared.exec, prepared.model, batch, {.main = 1, .mtp = 1, .balance = 1},
                       prepared.rope, prepared.gradients, stats);
      const int64_t said = kept_by_model(config, precision, kRows);
      EXPECT_GE(stats.kept_bytes, said) << "depths: " << depths;
      EXPECT_LE(stats.kept_bytes, said + kRounding * (1 + depths)) << "depths: " << depths;
    }
}

// The report's choices against BF16 with nothing computed again, at V3's shape.
TEST(ActivationMemory, OfFp8IsLessThanHalfOfBf16) {
  ModelConfig config;  // V3
  config.hidden_size = 7168;
  config.intermediate_size = 18432;
  config.moe_intermediate_size = 2048;
  config.n_routed_experts = 256;
  config.num_experts_per_tok = 8;
  config.n_shared_experts = 1;
  config.num_attention_heads = 128;
  config.q_lora_rank = 1536;
  config.kv_lora_rank = 512;
  config.qk_nope_head_dim = config.v_head_dim = 128;
  config.qk_rope_head_dim = 64;
  const SampleRows rows{.samples = 1, .rows_per_sample = 4096};
  for (const bool moe : {false, true}) {
    const int64_t bf16_bytes = total_bytes(kept_by_block(config, moe, {PrecisionKind::bf16}, rows));
    const int64_t fp8_bytes = total_bytes(kept_by_block(config, moe, {PrecisionKind::fp8, true, true}, rows));
    EXPECT_LT(2 * fp8_bytes, bf16_bytes) << (moe ? "MoE" : "dense");
  }
}

}  // namespace
}  // namespace moray::deepseek
