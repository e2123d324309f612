// Attention of MLA against the multiply-add peak. Usage: attention_bench [THREADS] [avx2|avx512] [FILTER].
// Absorbed attention of one token counts every head over latents, rotary keys and latents again: C+R+C; its
// layers' latents follow each other out of memory, as in a decoded token.
//
// Counted are the multiply-adds of the visible (query, key) pairs alone: with N+R wide keys and V wide
// values, N+R+V each forward, and backward 3(N+R)+2V, the scores being computed again; beside it, the share
// without that. Claims at 4096 tokens, 16 heads, 192/128: 60% forward, 55% backward.
#include <fmt/format.h>

#include <cmath>
#include <vector>

#include "bench/sheet.h"
#include "ops/mla_attention.h"
#include "ops/mla_decode.h"

namespace moray {
namespace {

void measure(Sheet& sheet, int64_t samples, int64_t rows, int64_t heads, int64_t nope, int64_t rope,
             int64_t value, std::optional<double> forward_bar, std::optional<double> backward_bar) {
  const std::string name =
      fmt::format("{} x {} tokens, {} heads, {}/{}", samples, rows, heads, nope + rope, value);
  if (!sheet.wants(name + " forward") && !sheet.wants(name + " backward")) return;
  const MlaShape shape = {heads, nope, rope, value, 1 / std::sqrt(static_cast<double>(nope + rope))};
  const AttentionMask mask = {samples, rows, {}};
  const int64_t total = samples * rows;
  Exec& exec = sheet.exec();
  const Tensor q = sheet.tensor({total, shape.q_width()}), kv = sheet.tensor({total, shape.kv_width()});
  const Tensor k_rope = sheet.tensor({total, rope}), d_o = sheet.tensor({total, shape.o_width()});
  const Tensor o = exec.empty(d_o.shape()), lse = exec.empty({heads, total});
  const Tensor dq = exec.empty(q.shape()), dkv = exec.empty(kv.shape()), dk_rope = exec.empty(k_rope.shape());
  const auto pairs = static_cast<double>(samples * heads * rows * (rows + 1) / 2);
  const auto keys = static_cast<double>(nope + rope), values = static_cast<double>(value);
  const auto forward = [&] { mla_attention_forward(exec, q, kv, k_rope, shape, mask, o, lse); };
  forward();  // the backward pass needs o and lse
  sheet.compute_row(name + " forward", 2 * pairs * (keys + values), {{"moray", forward}}, forward_bar, 0.6);
  const double counted = 2 * pairs * (3 * keys + 2 * values), needed = 2 * pairs * 2 * (keys + values);
  sheet.compute_row(
      fmt::format("{} backward (recomputed scores: {:.0f}%)", name, 100 * (1 - needed / counted)), counted,
      {{"moray",
        [&] { mla_attention_backward(exec, d_o, q, kv, k_rope, o, lse, shape, mask, dq, dkv, dk_rope); }}},
      backward_bar, 0.6);
}

// Codes of moderate numbers, all with the scale 1.
CachedLatents codes(Sheet& sheet, int64_t positions, int64_t latent, int64_t rope) {
  const Tensor latents = Tensor::empty(*sheet.exec().allocator, {positions, latent}, DType::f8_e4m3);
  for (int64_t i = 0; i < latents.elements(); ++i)
    latents.data<e4m3>()[i] = narrow<e4m3>(static_cast<float>(i % 17 - 8) / 16);
  const Tensor scales = sheet.exec().empty({positions, (latent + 127) / 128});
  std::fill_n(scales.data<float>(), scales.elements(), 1.0f);
  return {latents, sheet.tensor({positions, rope}, DType::bf16), scales};
}

void measure_decode(Sheet& sheet, int64_t layers, int64_t positions, int64_t heads, DType cache) {
  constexpr int64_t kLatent = 512, kNope = 128, kRope = 64, kValue = 128;
  const std::string name = fmt::format("one token behind {}, {} heads, {} layers of latents in {}", positions,
                                       heads, layers, dtype_name(cache));
  if (!sheet.wants(name)) return;
  Exec& exec = sheet.exec();
  const MlaShape shape = {heads, kNope, kRope, kValue, 1 / std::sqrt(static_cast<double>(kNope + kRope))};
  const Tensor q = sheet.tensor({1, shape.q_width()}), q_latent = sheet.tensor({1, heads * kLatent});
  const Tensor o_latent = exec.empty(q_latent.shape());
  std::vector<CachedLatents> past;
  for (int64_t layer = 0; layer < layers; ++layer)
    past.push_back(cache == DType::f8_e4m3 ? codes(sheet, positions, kLatent, kRope)
                                           : CachedLatents{sheet.tensor({positions, kLatent}, cache),
                                                           sheet.tensor({positions, kRope}, cache),
                                                           {}});
  const auto attend = [&] {
    for (const CachedLatents& latents : past) mla_attend(exec, q, q_latent, latents, shape, o_latent);
  };
  sheet.compute_row(name, 2.0 * static_cast<double>(layers * positions * heads * (2 * kLatent + kRope)),
                    {{"moray", attend}}, {}, 0.6);
}

void run(const BenchArguments& arguments) {
  Sheet sheet("Attention, share of the multiply-add peak", arguments.threads, arguments.filter);
  measure(sheet, 1, 4096, 16, 128, 64, 128, 0.60, 0.55);
  measure(sheet, 2, 2048, 16, 128, 64, 128, {}, {});
  measure(sheet, 4, 1024, 8, 64, 32, 64, {}, {});  // the recipe small
  measure(sheet, 4, 512, 8, 32, 16, 32, {}, {});
  for (const DType cache : {DType::bf16, DType::f8_e4m3, DType::f32})
    for (const int64_t layers : {1, 7}) measure_decode(sheet, layers, 8192, 16, cache);
  measure_decode(sheet, 1, 8192, 128, DType::bf16);
}

}  // namespace
}  // namespace moray

int main(int argc, char** argv) {
  return moray::run_bench([&] { moray::run(moray::parse_bench_arguments(argc, argv)); });
}
