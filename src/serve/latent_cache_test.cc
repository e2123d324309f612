// What the cache holds, against arithmetic of its own.
#include "serve/latent_cache.h"

#include <gtest/gtest.h>

#include <cmath>

#include "backend/register.h"
#include "base/random.h"

namespace moray {
namespace {

struct Machine {
  Machine() : pool(2) { register_backends(); }
  Allocator allocator;
  ThreadPool pool;
  Exec exec{Device::cpu, &pool, &allocator, DType::f32};
};

deepseek::ModelConfig shape_of(int64_t latent, int64_t rope) {
  deepseek::ModelConfig config;
  config.kv_lora_rank = latent;
  config.qk_rope_head_dim = rope;
  config.max_position_embeddings = 10000;
  return config;
}

Tensor random_rows(Exec& exec, int64_t rows, int64_t columns, uint64_t seed) {
  const Tensor x = exec.empty({rows, columns});
  Random random(seed, 1);
  for (float& value : x.span<float>()) value = static_cast<float>(random.normal());
  return x;
}

TEST(LatentCache, BytesATokenAndLayer) {
  const deepseek::ModelConfig v3 = shape_of(512, 64);
  EXPECT_EQ(LatentCache::token_bytes(v3, 1, DType::bf16), 1152u);
  EXPECT_EQ(LatentCache::token_bytes(v3, 1, DType::f8_e4m3), 656u);
  EXPECT_EQ(LatentCache::token_bytes(v3, 61, DType::bf16), 70272u);
  Machine machine;
  for (DType dtype : {DType::f32, DType::bf16, DType::f8_e4m3}) {
    const LatentCache cache(v3, 3, dtype);
    EXPECT_EQ(cache.bytes(), LatentCache::token_bytes(v3, 3, dtype) * static_cast<size_t>(cache.capacity()));
  }
}

// s = amax / 448 of 128 numbers, codes to nearest even, rotary keys to BF16; widened is decode(code) · s.
TEST(LatentCache, RoundsToItsForm) {
  Machine machine;
  const int64_t latent = 200, rope = 6, rows = 70;
  const Tensor latents = random_rows(machine.exec, rows, latent, 1),
               keys = random_rows(machine.exec, rows, rope, 2);
  for (int64_t c = 0; c < 128; ++c) latents.data<float>()[5 * latent + c] = 0;
  LatentCache cache(shape_of(latent, rope), 2, DType::f8_e4m3);
  cache.store(machine.exec, 1, 10, latents, keys);
  const CachedLatents wide = cache.widened(machine.exec, 1, 10 + rows);
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t tile = 0; tile < latent; tile += 128) {
      const int64_t end = std::min(tile + 128, latent);
      float amax = 0;
      for (int64_t c = tile; c < end; ++c)
        amax = std::max(amax, std::abs(latents.data<float>()[t * latent + c]));
      const float scale = amax == 0 ? 1 : amax / 448;
      for (int64_t c = tile; c < end; ++c) {
        const float x = latents.data<float>()[t * latent + c];
        ASSERT_EQ(wide.latents_PC.data<float>()[(10 + t) * latent + c],
                  to_float(narrow<e4m3>(x / scale)) * scale);
      }
    }
    for (int64_t r = 0; r < rope; ++r)
      ASSERT_EQ(wide.k_rope_PR.data<float>()[(10 + t) * rope + r],
                to_float(to_bf16(keys.data<float>()[t * rope + r])));
  }
}

std::vector<float> numbers(const CachedLatents& rows) {
  std::vector<float> all;
  for (const Tensor& part : {rows.latents_PC, rows.k_rope_PR})
    all.insert(all.end(), part.span<float>().begin(), part.span<float>().end());
  return all;
}

TEST(LatentCache, GrowsWithWhatItHolds) {
  Machine machine;
  for (DType dtype : {DType::f32, DType::bf16, DType::f8_e4m3}) {
    LatentCache cache(shape_of(140, 4), 2, dtype);
    const Tensor latents = random_rows(machine.exec, 100, 140, 3),
                 keys = random_rows(machine.exec, 100, 4, 4);
    cache.store(machine.exec, 0, 0, latents, keys);
    const std::vector<float> before = numbers(cache.widened(machine.exec, 0, 100));
    cache.reserve(cache.capacity() + 1, 300);
    EXPECT_EQ(cache.capacity(), 300) << "no more than asked for";
    cache.reserve(301, 10000);
    EXPECT_EQ(cache.capacity(), 450) << "by half at least";
    cache.reserve(690, 700);
    EXPECT_EQ(cache.capacity(), 700) << "all of it, where little is left";
    EXPECT_EQ(numbers(cache.widened(machine.exec, 0, 100)), before);
  }
}

// What is not finite is seen in the logits, not made finite.
TEST(LatentCache, KeepsNan) {
  Machine machine;
  LatentCache cache(shape_of(128, 4), 1, DType::f8_e4m3);
  const Tensor latents = random_rows(machine.exec, 1, 128, 5), keys = random_rows(machine.exec, 1, 4, 6);
  latents.data<float>()[7] = std::nanf("");
  cache.store(machine.exec, 0, 0, latents, keys);
  EXPECT_TRUE(std::isnan(cache.widened(machine.exec, 0, 1).latents_PC.data<float>()[7]));
}

}  // namespace
}  // namespace moray
