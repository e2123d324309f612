// Integer weights in rows, such as kv_b_proj: one output after the other, each block's products of bytes in
// pairs of 16 bits. T rows, I inputs, O outputs.
#include "backend/cpu/weight_integers.h"

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "backend/cpu/int_panels.h"

namespace moray::cpu {

namespace {

constexpr int64_t kTaskOutputs = 64;

struct IntegerTask {
  const WeightProduct* product = nullptr;
  IntActivations x;
  int64_t first_output = 0;
};

#pragma GCC push_options
#pragma GCC target("avx2,fma")

constexpr int64_t kLanes = 16;  // of 16 bits

inline __m256i load_words(const int8_t* from) {
  return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
inline __m256i load_words(const int16_t* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}

// Exact; W is of 8 or 16 bits.
template <class W>
inline int32_t dot(const int8_t* x, const W* w, int64_t count) {
  __m256i sums[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  int64_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes)
    for (int64_t half = 0; half < 2; ++half) {
      const int64_t at = i + half * kLanes;
      sums[half] = _mm256_add_epi32(sums[half], _mm256_madd_epi16(load_words(x + at), load_words(w + at)));
    }
  const __m256i both = _mm256_add_epi32(sums[0], sums[1]);
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0b01'00'11'10));
  int32_t sum = _mm_cvtsi128_si32(four) + _mm_extract_epi32(four, 1);
  for (; i < count; ++i) sum += x[i] * w[i];
  return sum;
}

// s·(2q − 7 − z) of a group's 32 columns.
inline void widen_group(const Int4Group& group, int16_t* to) {
  const __m128i both = _mm_loadu_si128(reinterpret_cast<const __m128i*>(group.codes));
  const __m128i nibbles = _mm_set1_epi8(15);
  const __m256i s = _mm256_set1_epi16(static_cast<int16_t>(group.sub_scale));
  const __m256i zero = _mm256_set1_epi16(static_cast<int16_t>(group.zero));
  const auto store = [&](__m128i codes, int16_t* at) {
    const __m256i twice = _mm256_slli_epi16(_mm256_cvtepu8_epi16(codes), 1);
    _mm256_store_si256(reinterpret_cast<__m256i*>(at), _mm256_mullo_epi16(s, _mm256_sub_epi16(twice, zero)));
  };
  store(_mm_and_si128(both, nibbles), to);
  store(_mm_and_si128(_mm_srli_epi16(both, 4), nibbles), to + kInt4Group / 2);
}

// Block `block` of all rows of x times one output's weights.
template <class W>
inline void add_block(const IntegerTask& task, int64_t output, int64_t block, int64_t count,
                      const W* weights) {
  const IntActivations& x = task.x;
  const int64_t outputs = task.product->w_OI.outputs();
  const Tensor& scales = task.product->w_OI.scales;
  const float scale = reinterpret_cast<const float*>(scales.raw())[output * x.blocks + block];
  float* y = reinterpret_cast<float*>(task.product->y_TO.raw()) + output;
  for (int64_t t = 0; t < x.rows; ++t) {
    const auto part = static_cast<float>(dot(x.codes + t * x.stride + block * kIntBlock, weights, count));
    float& run = y[t * outputs];
    run = std::fma(x.scales[t * x.blocks + block] * scale, part, block == 0 ? 0.0f : run);
  }
}

void run_task(const IntegerTask& task) {
  constexpr int64_t kAheadBytes = 4096, kLineBytes = 64;
  const StoredWeight& w = task.product->w_OI;
  const int64_t inputs = task.x.inputs, row_bytes = w.values_OI.extent(1);
  const bool bytes = w.values_OI.dtype() == DType::i8;
  for (int64_t o = task.first_output; o < std::min(task.first_output + kTaskOutputs, w.outputs()); ++o) {
    const std::byte* row = w.values_OI.raw() + o * row_bytes;
    for (int64_t line = 0; line < row_bytes; line += kLineBytes)
      _mm_prefetch(reinterpret_cast<const char*>(row) + line + kAheadBytes, _MM_HINT_T0);
    for (int64_t block = 0; block < task.x.blocks; ++block) {
      const int64_t begin = block * kIntBlock, count = std::min(kIntBlock, inputs - begin);
      if (bytes) {
        add_block(task, o, block, count, reinterpret_cast<const int8_t*>(row) + begin);
        continue;
      }
      alignas(32) int16_t integers[kIntBlock];
      const auto* packed = reinterpret_cast<const uint8_t*>(row);
      for (int64_t i = 0; i < count; i += kInt4Group)
        widen_group(int4_group(packed, inputs, (begin + i) / kInt4Group), integers + i);
      add_block(task, o, block, count, integers);
    }
  }
}

#pragma GCC pop_options

bool is_here(const WeightProduct& p) {
  return p.w_OI.is_integer() && !in_int_panels(p.w_OI) && p.x_TI.extent(0) > 0;
}

// Memory for a product's quantized rows, added to `kept`.
IntActivations activations(Exec& exec, const Tensor& x_TI, std::vector<Tensor>& kept) {
  const int64_t rows = x_TI.extent(0), inputs = x_TI.extent(1), blocks = int_row_scales(inputs);
  const Tensor codes = Tensor::empty(*exec.allocator, {rows, blocks * kIntBlock}, DType::i8);
  const Tensor scales = Tensor::empty(*exec.allocator, {rows, blocks}, DType::f32);
  const Tensor sums = Tensor::empty(*exec.allocator, {rows, 8 * blocks}, DType::u8);
  kept.insert(kept.end(), {codes, scales, sums});
  return {rows,
          inputs,
          blocks * kIntBlock,
          blocks,
          codes.data<int8_t>(),
          scales.data<float>(),
          reinterpret_cast<int16_t*>(sums.raw())};
}

}  // namespace

void run_integer_products(Exec& exec, std::span<const WeightProduct> products) {
  run_int_panels(exec, products);
  std::vector<IntegerTask> tasks;
  std::vector<Tensor> kept;
  for (const WeightProduct& p : products) {
    if (!is_here(p)) continue;
    const IntActivations x = activations(exec, p.x_TI, kept);
    exec.pool->for_each(x.rows,
                        [&](int64_t t, int) { quantize_row(p.x_TI.data<float>() + t * x.inputs, t, x); });
    for (int64_t o = 0; o < p.w_OI.outputs(); o += kTaskOutputs) tasks.push_back({&p, x, o});
  }
  exec.pool->for_stretches(static_cast<int64_t>(tasks.size()),
                           [&](int64_t index, int) { run_task(tasks[static_cast<size_t>(index)]); });
}

}  // namespace moray::cpu
