// Without VNNI, bytes are multiplied in pairs into 16 bits: of 8 bits with the sign of the weight's factor
// moved to the weight (2 · 127² fits); of 4 bits as they are, a group's sums fitting 16 bits.
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "backend/cpu/int_panels.h"
#include "tensor/panels.h"

#pragma GCC push_options
#pragma GCC target("avx2,fma")

namespace moray::cpu {
namespace {

constexpr int64_t kLine = kPanelLineBytes, kQuad = 4, kLines4 = kInt4Group / 8;  // lines of a group of 4 bits
constexpr int64_t kHalf = kLine / 2, kHalfRows = kPanelRows / 2;
constexpr int64_t kMostRows = 4;

inline __m256i load(const std::byte* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}

inline __m256i codes_of(const int8_t* x) {
  int32_t four;
  std::memcpy(&four, x, sizeof four);
  return _mm256_set1_epi32(four);
}

inline __m256i add_pairs(__m256i sum, __m256i products, __m256i factor) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(products, factor));
}

// A block of 8 panel rows from byte `half` of each line on: exact sums of rows of x.
template <size_t kRows>
inline void int8_block(const IntActivations& x, int64_t row, const std::byte* lines, int64_t k, int64_t count,
                       __m256i (&part)[kRows]) {
  const __m256i ones = _mm256_set1_epi16(1);
  const std::byte* line = lines + k * kPanelRows;
  for (int64_t at = 0; at < count; at += kQuad, line += kLine) {
    const __m256i w = load(line);
#pragma GCC unroll 4
    for (size_t r = 0; r < kRows; ++r) {
      const __m256i four = codes_of(x.codes + (row + static_cast<int64_t>(r)) * x.stride + k + at);
      part[r] =
          add_pairs(part[r], _mm256_maddubs_epi16(_mm256_abs_epi8(four), _mm256_sign_epi8(w, four)), ones);
    }
  }
}

template <size_t kRows>
inline void int4_block(const IntActivations& x, int64_t row, const std::byte* panel, int64_t half, int64_t k,
                       int64_t count, __m256i (&part)[kRows]) {
  const std::byte* block = panel + k / kIntBlock * kInt4PanelBlockBytes;
  const std::byte* sub_scales = block + int4_panel_sub_scales(count) + half * kPanelRows;
  const std::byte* line = block + half * kHalf;
  const __m256i nibbles = _mm256_set1_epi8(15);
  for (int64_t at = 0; at < count; at += kInt4Group) {
    const int64_t group = at / kInt4Group;
    __m256i sum[kRows];
    for (__m256i& s : sum) s = _mm256_setzero_si256();
    for (int64_t l = 0; l < kLines4; ++l, line += kLine) {
      const __m256i both = load(line), low = _mm256_and_si256(both, nibbles),
                    high = _mm256_and_si256(_mm256_srli_epi16(both, 4), nibbles);
#pragma GCC unroll 4
      for (size_t r = 0; r < kRows; ++r) {
        const int8_t* four = x.codes + (row + static_cast<int64_t>(r)) * x.stride + k + at + l * kQuad;
        sum[r] = _mm256_add_epi16(sum[r], _mm256_maddubs_epi16(low, codes_of(four)));
        sum[r] = _mm256_add_epi16(sum[r], _mm256_maddubs_epi16(high, codes_of(four + kInt4Group / 2)));
      }
    }
    // s and s·(7 + z), in both halves of a lane and in the lower one.
    const __m128i pairs = _mm_loadu_si128(reinterpret_cast<const __m128i*>(sub_scales + group / 2 * kHalf));
    const __m256i packed =
        _mm256_srl_epi32(_mm256_cvtepu16_epi32(pairs), _mm_cvtsi32_si128(group % 2 == 0 ? 0 : 8));
    const __m256i s = _mm256_and_si256(packed, _mm256_set1_epi32(15));
    const __m256i zero = _mm256_add_epi32(
        _mm256_and_si256(_mm256_srli_epi32(packed, 4), _mm256_set1_epi32(15)), _mm256_set1_epi32(7));
    const __m256i product = _mm256_mullo_epi16(s, zero);
    const __m256i twice = _mm256_slli_epi16(_mm256_or_si256(s, _mm256_slli_epi32(s, 16)), 1);
    for (size_t r = 0; r < kRows; ++r) {
      const int32_t of_x = x.sums[(row + static_cast<int64_t>(r)) * x.blocks * 4 + k / kInt4Group + group];
      const __m256i less = _mm256_madd_epi16(product, _mm256_set1_epi32(of_x));
      part[r] = _mm256_sub_epi32(add_pairs(part[r], sum[r], twice), less);
    }
  }
}

// kRows rows × 8 outputs: half a panel.
template <bool kInt4, size_t kRows>
void half_panel(const IntPanelsTask& task, int64_t row, int64_t panel, int64_t half) {
  const IntActivations& x = *task.x;
  const std::byte* lines = task.panels + panel * task.panel_bytes;
  const float* scales = task.scales + panel * x.blocks * kPanelRows + half * kHalfRows;
  __m256 run[kRows];
  for (__m256& sum : run) sum = _mm256_setzero_ps();
  for (int64_t block = 0; block < x.blocks; ++block) {
    const int64_t k = block * kIntBlock, count = std::min(kIntBlock, x.inputs - k);
    __m256i part[kRows];
    for (__m256i& sum : part) sum = _mm256_setzero_si256();
    if constexpr (kInt4)
      int4_block<kRows>(x, row, lines, half, k, count, part);
    else
      int8_block<kRows>(x, row, lines + half * kHalf, k, count, part);
    for (size_t r = 0; r < kRows; ++r) {
      const float of_x = x.scales[(row + static_cast<int64_t>(r)) * x.blocks + block];
      const __m256 scale = _mm256_mul_ps(_mm256_set1_ps(of_x), _mm256_loadu_ps(scales + block * kPanelRows));
      run[r] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(part[r]), run[r]);
    }
  }
  for (size_t r = 0; r < kRows; ++r)
    _mm256_storeu_ps(
        task.y + (row + static_cast<int64_t>(r)) * task.y_stride + panel * kPanelRows + half * kHalfRows,
        run[r]);
}

template <bool kInt4, size_t kRows>
void rows_of(const IntPanelsTask& task, int64_t row, int64_t panel) {
  for (int64_t half = 0; half < 2; ++half) half_panel<kInt4, kRows>(task, row, panel, half);
}

template <bool kInt4>
void run_task(const IntPanelsTask& task) {
  for (int64_t panel = task.panel_begin; panel < task.panel_end; ++panel)
    for (int64_t row = 0; row < task.x->rows; row += kMostRows)
      switch (std::min(kMostRows, task.x->rows - row)) {
        case 1:
          rows_of<kInt4, 1>(task, row, panel);
          break;
        case 2:
          rows_of<kInt4, 2>(task, row, panel);
          break;
        case 3:
          rows_of<kInt4, 3>(task, row, panel);
          break;
        default:
          rows_of<kInt4, 4>(task, row, panel);
          break;
      }
}

// Codes of a block and its scale.
float quantize_block(const float* from, int64_t count, int8_t* codes) {
  float padded[kIntBlock] = {};
  std::memcpy(padded, from, static_cast<size_t>(count) * sizeof(float));
  const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  const __m256 infinity = _mm256_set1_ps(__builtin_inff());
  __m256 most = _mm256_setzero_ps(), finite = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
  for (int64_t i = 0; i < kIntBlock; i += 8) {
    const __m256 x = _mm256_and_ps(_mm256_loadu_ps(padded + i), magnitude);
    finite = _mm256_and_ps(finite, _mm256_cmp_ps(x, infinity, _CMP_LT_OQ));
    most = _mm256_max_ps(most, x);
  }
  if (_mm256_movemask_ps(finite) != 0xff) {
    std::memset(codes, 0, static_cast<size_t>(count));
    return __builtin_nanf("");
  }
  alignas(32) float lanes[8];
  _mm256_store_ps(lanes, most);
  const float amax = *std::max_element(lanes, lanes + 8);
  const float scale = amax == 0 ? 1.0f : std::max(amax / 127, 0x1p-126f);
  alignas(32) int32_t rounded[kIntBlock];  // conversion rounds to nearest even
  for (int64_t i = 0; i < kIntBlock; i += 8)
    _mm256_store_si256(reinterpret_cast<__m256i*>(rounded + i),
                       _mm256_cvtps_epi32(_mm256_div_ps(_mm256_loadu_ps(padded + i), _mm256_set1_ps(scale))));
  for (int64_t i = 0; i < count; ++i) codes[i] = static_cast<int8_t>(rounded[i]);
  return scale;
}

}  // namespace

void run_int_panels_avx2(const IntPanelsTask& task) {
  task.int4 ? run_task<true>(task) : run_task<false>(task);
}

void quantize_row(const float* from, int64_t row, const IntActivations& x) {
  int8_t* codes = x.codes + row * x.stride;
  for (int64_t block = 0; block < x.blocks; ++block) {
    const int64_t k = block * kIntBlock, count = std::min(kIntBlock, x.inputs - k);
    x.scales[row * x.blocks + block] = quantize_block(from + k, count, codes + k);
    std::memset(codes + k + count, 0, static_cast<size_t>(kIntBlock - count));
    for (int64_t group = 0; group < 4; ++group) {
      int32_t sum = 0;
      for (int64_t i = 0; i < kInt4Group; ++i) sum += codes[k + group * kInt4Group + i];
      x.sums[(row * x.blocks + block) * 4 + group] = static_cast<int16_t>(sum);
    }
  }
}

}  // namespace moray::cpu

#pragma GCC pop_options
