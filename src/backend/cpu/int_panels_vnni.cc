// VNNI multiplies unsigned bytes with signed ones. Weights become the unsigned ones: of 8 bits w + 128, of 4
// bits q, or s·q for many rows; what that adds is subtracted block by block, from sums of the activations'
// codes.
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "backend/cpu/int_panels.h"
#include "backend/cpu/matmul_kernel.h"
#include "tensor/panels.h"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")

namespace moray::cpu {
namespace {

constexpr int64_t kLine = kPanelLineBytes, kQuad = 4, kLines4 = kInt4Group / 8;  // lines of a group of 4 bits
constexpr int64_t kPair = 2 * kInt4Group;  // groups whose sub-scales share 16 bits
constexpr int64_t kHalfLine = kLine / 2;

inline __m512i codes_of(const int8_t* x) {
  int32_t four;
  std::memcpy(&four, x, sizeof four);
  return _mm512_set1_epi32(four);
}
// Of a row's two groups of columns from k on, in 16-bit halves.
inline __m512i sums_of_pair(const IntActivations& x, int64_t row, int64_t k) {
  int32_t two;
  std::memcpy(&two, x.sums + row * x.blocks * 4 + k / kInt4Group, sizeof two);
  return _mm512_set1_epi32(two);
}

// w + 128 of a line of 8-bit codes.
inline __m512i unsigned_line(const std::byte* line) {
  return _mm512_xor_si512(_mm512_loadu_si512(line), _mm512_set1_epi8(static_cast<char>(0x80)));
}

// Bytes `first` and `second` of each lane of 32 bits, as halves of 16 bits.
inline __m512i halves_of(__m512i packed, int first, int second) {
  constexpr int kZeroed = 0x80;
  const __m512i lanes = _mm512_set4_epi32(0x000c000c, 0x00080008, 0x00040004, 0);  // their bytes in 128 bits
  const __m512i of_lane = _mm512_set1_epi32(first | kZeroed << 8 | second << 16 | kZeroed << 24);
  return _mm512_shuffle_epi8(packed, _mm512_or_si512(lanes, of_lane));
}

// Two groups' sub-scales of 16 rows, as 16-bit halves of a lane: s of one group in both, and s·(7 + z) of the
// two.
struct PairScales {
  __m512i both[2], product;

  explicit PairScales(const std::byte* half_line) {
    const __m512i packed =
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(half_line)));
    const __m512i low = _mm512_and_si512(packed, _mm512_set1_epi8(15));
    both[0] = halves_of(low, 0, 0);
    both[1] = halves_of(low, 1, 1);
    const __m512i zero = _mm512_srli_epi16(halves_of(packed, 0, 1), 4);
    product = _mm512_mullo_epi16(halves_of(low, 0, 1), _mm512_add_epi16(zero, _mm512_set1_epi16(7)));
  }
};

// s·q of a line's low or high codes: no carry leaves a byte, 15 · 15 fits.
inline __m512i low_codes(__m512i line, __m512i s) {
  return _mm512_mullo_epi16(_mm512_and_si512(line, _mm512_set1_epi8(15)), s);
}
inline __m512i high_codes(__m512i line, __m512i s) {
  return low_codes(_mm512_srli_epi16(line, 4), s);
}

// Where a product finds panel `panel`.
struct Panel {
  const std::byte* lines;
  const float* scales;

  Panel(const IntPanelsTask& task, int64_t panel)
      : lines(task.panels + panel * task.panel_bytes),
        scales(task.scales + panel * task.x->blocks * kPanelRows) {}
};

int32_t block_sum(const IntActivations& x, int64_t row, int64_t block) {
  const int16_t* sums = x.sums + (row * x.blocks + block) * 4;
  return sums[0] + sums[1] + sums[2] + sums[3];
}

inline __m512 joined(const IntActivations& x, int64_t row, int64_t block, const float* scales, __m512i part,
                     __m512 run) {
  const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(x.scales[row * x.blocks + block]),
                                     _mm512_loadu_ps(scales + block * kPanelRows));
  return _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(part), run);
}

// A group's Σ q·x for each row, in two halves of 16 bits: of its low and of its high codes, 16 · 15 · 127
// fits.
template <size_t kRows>
inline void int4_group_sums(const IntActivations& x, const std::byte* line, int64_t k,
                            __m512i (&sum)[kRows]) {
  __m512i low[kRows], high[kRows];  // high: 16 times the sums, as its codes lie in their bytes
  for (size_t r = 0; r < kRows; ++r) low[r] = high[r] = _mm512_setzero_si512();
#pragma GCC unroll 4
  for (int64_t l = 0; l < kLines4; ++l, line += kLine) {
    const __m512i both = _mm512_loadu_si512(line), low_codes = _mm512_and_si512(both, _mm512_set1_epi8(15)),
                  high_codes = _mm512_and_si512(both, _mm512_set1_epi8(static_cast<char>(0xf0)));
#pragma GCC unroll 4
    for (size_t r = 0; r < kRows; ++r) {
      const int8_t* four = x.codes + static_cast<int64_t>(r) * x.stride + k + l * kQuad;
      low[r] = _mm512_dpbusd_epi32(low[r], low_codes, codes_of(four));
      high[r] = _mm512_dpbusd_epi32(high[r], high_codes, codes_of(four + kInt4Group / 2));
    }
  }
  for (size_t r = 0; r < kRows; ++r)
    sum[r] = _mm512_mask_blend_epi16(0xaaaaaaaa, low[r], _mm512_slli_epi32(high[r], 12));
}

// Exact sums of a block of a panel for few rows, straight from memory and in its order: sub-scales lie behind
// the codes, and whoever reads them first is not followed by the processor's prefetching.
template <size_t kRows>
inline void int4_block(const IntActivations& x, const Panel& panel, int64_t k, int64_t count,
                       __m512i (&part)[kRows]) {
  constexpr int64_t kMostGroups = kIntBlock / kInt4Group;
  const std::byte* line = panel.lines + k / kIntBlock * kInt4PanelBlockBytes;
  __m512i of_group[kMostGroups][kRows];
  const int64_t groups = count / kInt4Group;
#pragma GCC unroll 4
  for (int64_t g = 0; g < kMostGroups; ++g, line += kLines4 * kLine)
    if (g < groups) int4_group_sums<kRows>(x, line, k + g * kInt4Group, of_group[g]);
  const std::byte* sub_scales =
      panel.lines + k / kIntBlock * kInt4PanelBlockBytes + int4_panel_sub_scales(count);
  __m512i sum[kRows], less[kRows];
  for (size_t r = 0; r < kRows; ++r) sum[r] = less[r] = _mm512_setzero_si512();
#pragma GCC unroll 2
  for (int64_t g = 0; g < kMostGroups; g += 2, sub_scales += kHalfLine) {
    if (g >= groups) break;
    const PairScales scales(sub_scales);
#pragma GCC unroll 4
    for (size_t r = 0; r < kRows; ++r) {
      sum[r] = _mm512_dpwssd_epi32(sum[r], scales.both[0], of_group[g][r]);
      sum[r] = _mm512_dpwssd_epi32(sum[r], scales.both[1], of_group[g + 1][r]);
      less[r] = _mm512_dpwssd_epi32(less[r], scales.product,
                                    sums_of_pair(x, static_cast<int64_t>(r), k + g * kInt4Group));
    }
  }
  for (size_t r = 0; r < kRows; ++r) part[r] = _mm512_sub_epi32(_mm512_slli_epi32(sum[r], 1), less[r]);
}

template <size_t kRows>
inline void int8_block(const IntActivations& x, const Panel& panel, int64_t k, int64_t count,
                       __m512i (&part)[kRows]) {
  for (__m512i& sum : part) sum = _mm512_setzero_si512();
  const std::byte* line = panel.lines + k * kPanelRows;
  for (int64_t at = k; at < k + count; at += kQuad, line += kLine) {
    const __m512i w = unsigned_line(line);
#pragma GCC unroll 4
    for (size_t r = 0; r < kRows; ++r)
      part[r] = _mm512_dpbusd_epi32(part[r], w, codes_of(x.codes + static_cast<int64_t>(r) * x.stride + at));
  }
  for (size_t r = 0; r < kRows; ++r)
    part[r] = _mm512_sub_epi32(part[r],
                               _mm512_set1_epi32(128 * block_sum(x, static_cast<int64_t>(r), k / kIntBlock)));
}

// All rows of a product of few, panel after panel: one stretch of memory, read from its beginning to its end,
// which the processor's own prefetching follows best alone (docs/results/serving-speed.md).
template <bool kInt4, size_t kRows>
void few_rows_task(const IntPanelsTask& task) {
  const IntActivations& x = *task.x;
  for (int64_t index = task.panel_begin; index < task.panel_end; ++index) {
    const Panel panel(task, index);
    __m512 run[kRows];
    for (__m512& sum : run) sum = _mm512_setzero_ps();
    for (int64_t block = 0; block < x.blocks; ++block) {
      const int64_t k = block * kIntBlock, count = std::min(kIntBlock, x.inputs - k);
      __m512i part[kRows];
      if constexpr (kInt4)
        int4_block<kRows>(x, panel, k, count, part);
      else
        int8_block<kRows>(x, panel, k, count, part);
      for (size_t r = 0; r < kRows; ++r)
        run[r] = joined(x, static_cast<int64_t>(r), block, panel.scales, part[r], run[r]);
    }
    for (size_t r = 0; r < kRows; ++r)
      _mm512_storeu_ps(task.y + static_cast<int64_t>(r) * task.y_stride + index * kPanelRows, run[r]);
  }
}

// A panel of 4 bits as lines of s·q of four columns each, in order, and s·(7 + z) of pairs of groups.
struct Unpacked {
  std::vector<std::byte> memory;
  int64_t line_bytes = 0;

  void unpack(const Panel& panel, int64_t inputs, size_t index) {
    std::byte *to = lines(index), *product = products(index);
    for (int64_t k = 0; k < inputs; k += kIntBlock) {
      const std::byte* line = panel.lines + k / kIntBlock * kInt4PanelBlockBytes;
      const int64_t count = std::min(kIntBlock, inputs - k);
      const std::byte* sub_scales = line + int4_panel_sub_scales(count);
      for (int64_t at = 0; at < count; at += kPair, sub_scales += kHalfLine, product += kLine) {
        const PairScales scales(sub_scales);
        _mm512_storeu_si512(product, scales.product);
        for (int group = 0; group < 2; ++group, to += 2 * kLines4 * kLine)
          for (int64_t l = 0; l < kLines4; ++l, line += kLine) {
            const __m512i both = _mm512_loadu_si512(line), s = scales.both[group];
            _mm512_storeu_si512(to + l * kLine, low_codes(both, s));
            _mm512_storeu_si512(to + (kLines4 + l) * kLine, high_codes(both, s));
          }
      }
    }
  }
  void resize(int64_t inputs, size_t panels) {
    line_bytes = inputs / kQuad * kLine;
    memory.resize(panels * static_cast<size_t>(line_bytes + inputs / kPair * kLine));
  }
  std::byte* lines(size_t index) {
    return memory.data() + static_cast<int64_t>(index) * (line_bytes + line_bytes / (kPair / kQuad));
  }
  std::byte* products(size_t index) { return lines(index) + line_bytes; }
};

constexpr size_t kTileRows = 12, kTilePanels = 2;  // 24 sums, 2 of the weight, 1 of a row out of 32 registers

// Lines of unsigned bytes (of 8 bits: signed ones) and, of 4 bits, products of a tile's panels.
struct TilePanels {
  std::array<const std::byte*, kTilePanels> lines, products;
  std::array<const float*, kTilePanels> scales;
};

// body(0), body(1), ... with numbers that are constants, so that an array of vectors becomes registers.
template <size_t kCount, class Body>
[[gnu::always_inline]] inline void unrolled(const Body& body) {
  const auto all = [&body]<size_t... i>(std::index_sequence<i...>) __attribute__((always_inline)) {
    (body(std::integral_constant<size_t, i>()), ...);
  };
  all(std::make_index_sequence<kCount>());
}

// Exact sums of a block from its lines and codes on, of 4 bits without what s·(7 + z) takes off: [kRows,
// kPanels, 16]. Not inline: beside the code that joins them, GCC wrote each sum to memory at every step.
template <bool kInt4, size_t kRows, size_t kPanels>
[[gnu::noinline]] void sum_tile(const int8_t* codes, int64_t stride, int64_t count,
                                std::array<const std::byte*, kPanels> lines, int32_t* sums) {
  __m512i sum[kRows * kPanels];
  unrolled<kRows * kPanels>([&](auto i) __attribute__((always_inline)) { sum[i] = _mm512_setzero_si512(); });
  for (int64_t at = 0; at < count; at += kQuad) {
    __m512i line[kPanels];
    unrolled<kPanels>([&](auto p) __attribute__((always_inline)) {
      const std::byte* from = lines[p] + at * kPanelRows;
      line[p] = kInt4 ? _mm512_loadu_si512(from) : unsigned_line(from);
    });
    unrolled<kRows>([&](auto r) __attribute__((always_inline)) {
      const __m512i four = codes_of(codes + static_cast<int64_t>(r) * stride + at);
      unrolled<kPanels>([&](auto p) __attribute__((always_inline)) {
        sum[r * kPanels + p] = _mm512_dpbusd_epi32(sum[r * kPanels + p], line[p], four);
      });
    });
  }
  unrolled<kRows * kPanels>([&](auto i) __attribute__((always_inline)) {
    _mm512_store_si512(sums + static_cast<int64_t>(i) * kPanelRows, sum[i]);
  });
}

// Rows [row, row + kRows) × kPanels panels.
template <bool kInt4, size_t kRows, size_t kPanels>
void tile(const IntActivations& x, int64_t row, const TilePanels& w, float* y, int64_t y_stride) {
  alignas(64) float runs[kRows][kPanels][kPanelRows] = {};
  alignas(64) int32_t sums[kRows][kPanels][kPanelRows];
  for (int64_t block = 0; block < x.blocks; ++block) {
    const int64_t k = block * kIntBlock, count = std::min(kIntBlock, x.inputs - k);
    std::array<const std::byte*, kPanels> lines;
    for (size_t p = 0; p < kPanels; ++p) lines[p] = w.lines[p] + k * kPanelRows;
    sum_tile<kInt4, kRows, kPanels>(x.codes + row * x.stride + k, x.stride, count, lines, &sums[0][0][0]);
    for (size_t r = 0; r < kRows; ++r) {
      const int64_t t = row + static_cast<int64_t>(r);
      const __m512i less_all = _mm512_set1_epi32(128 * block_sum(x, t, block));
#pragma GCC unroll 2
      for (size_t p = 0; p < kPanels; ++p) {
        __m512i part = _mm512_load_si512(sums[r][p]);
        if constexpr (kInt4) {
          __m512i less = _mm512_setzero_si512();
          for (int64_t pair = k / kPair; pair * kPair < k + count; ++pair)
            less = _mm512_dpwssd_epi32(less, _mm512_loadu_si512(w.products[p] + pair * kLine),
                                       sums_of_pair(x, t, pair * kPair));
          part = _mm512_sub_epi32(_mm512_slli_epi32(part, 1), less);
        } else {
          part = _mm512_sub_epi32(part, less_all);
        }
        float* run = runs[r][p];
        _mm512_store_ps(run, joined(x, t, block, w.scales[p], part, _mm512_load_ps(run)));
      }
    }
  }
  for (size_t r = 0; r < kRows; ++r)
    for (size_t p = 0; p < kPanels; ++p)
      std::memcpy(y + (row + static_cast<int64_t>(r)) * y_stride + static_cast<int64_t>(p) * kPanelRows,
                  runs[r][p], sizeof runs[r][p]);
}

using Tile = void (*)(const IntActivations&, int64_t, const TilePanels&, float*, int64_t);
template <bool kInt4, size_t... kRowsLessOne>
constexpr auto tiles(std::index_sequence<kRowsLessOne...>) {
  return std::array<std::array<Tile, kTilePanels>, kTileRows>{
      {{tile<kInt4, kRowsLessOne + 1, 1>, tile<kInt4, kRowsLessOne + 1, 2>}...}};
}
constexpr std::array kTiles = {tiles<false>(std::make_index_sequence<kTileRows>()),
                               tiles<true>(std::make_index_sequence<kTileRows>())};

void many_rows_task(const IntPanelsTask& task) {
  static thread_local Unpacked unpacked;
  const IntActivations& x = *task.x;
  const RowStrips strips(x.rows, int64_t{kTileRows});
  if (task.int4) unpacked.resize(x.inputs, kTilePanels);
  for (int64_t first = task.panel_begin; first < task.panel_end; first += int64_t{kTilePanels}) {
    const auto panels = static_cast<size_t>(std::min(int64_t{kTilePanels}, task.panel_end - first));
    TilePanels w{};
    for (size_t p = 0; p < panels; ++p) {
      const Panel panel(task, first + static_cast<int64_t>(p));
      if (task.int4) unpacked.unpack(panel, x.inputs, p);
      w.lines[p] = task.int4 ? unpacked.lines(p) : panel.lines;
      w.products[p] = task.int4 ? unpacked.products(p) : nullptr;
      w.scales[p] = panel.scales;
    }
    for (int64_t strip = 0; strip < strips.count; ++strip) {
      const int64_t begin = strips.begin(strip);
      kTiles[task.int4][static_cast<size_t>(strips.begin(strip + 1) - begin - 1)][panels - 1](
          x, begin, w, task.y + first * kPanelRows, task.y_stride);
    }
  }
}

}  // namespace

void run_int_panels_vnni(const IntPanelsTask& task) {
  const auto run = [&task]<size_t kRows>(std::integral_constant<size_t, kRows>) {
    task.int4 ? few_rows_task<true, kRows>(task) : few_rows_task<false, kRows>(task);
  };
  switch (task.x->rows) {
    case 1:
      return run(std::integral_constant<size_t, 1>());
    case 2:
      return run(std::integral_constant<size_t, 2>());
    case 3:
      return run(std::integral_constant<size_t, 3>());
    case 4:
      return run(std::integral_constant<size_t, 4>());
    default:
      return many_rows_task(task);
  }
}

}  // namespace moray::cpu

#pragma GCC pop_options
