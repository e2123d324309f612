// The product of up to four rows with a weight as it lies in memory, at memory speed: lines of many rows of
// the weight are transposed in registers, so that vector lanes run over outputs, and one k-block at a time
// waits in L1 as words of as many consecutive k as fit 32 bits.

// Included once per Highway target, hence the toggled guard.
#if defined(MORAY_WEIGHT_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MORAY_WEIGHT_ROWS_INL_H_
#undef MORAY_WEIGHT_ROWS_INL_H_
#else
#define MORAY_WEIGHT_ROWS_INL_H_
#endif

#include <array>
#include <cstring>
#include <type_traits>

#include "backend/cpu/lanes-inl.h"
#include "backend/cpu/weight_rows.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {
namespace {

using WordTag = hn::ScalableTag<uint32_t>;
using WordVec = hn::Vec<WordTag>;
constexpr size_t kRowLanes = static_cast<size_t>(kVectorLanes);
constexpr size_t kPanels = static_cast<size_t>(kTaskOutputs) / kRowLanes;
constexpr size_t kLineBytes = kRowLanes * sizeof(uint32_t);

// Words of a k-block for kRowLanes outputs each: word w of panel p begins at (p · kMostWords + w) · kRowLanes.
constexpr size_t kMostWords = static_cast<size_t>(kKBlock);
constexpr size_t kStagedWords = kPanels * kMostWords * kRowLanes;

// Blocks of 128 bits of four vectors, transposed (AVX2: of two, twice).
HWY_INLINE void transpose_blocks(const std::array<WordVec, kRowLanes / 4>& x, size_t j, uint32_t* to) {
  const WordTag d;
  const auto store = [&](size_t word, WordVec v) HWY_ATTR { hn::Store(v, d, to + word * kRowLanes); };
#if HWY_TARGET == HWY_AVX3
  const WordVec low01 = hn::ConcatLowerLower(d, x[1], x[0]), low23 = hn::ConcatLowerLower(d, x[3], x[2]);
  const WordVec high01 = hn::ConcatUpperUpper(d, x[1], x[0]), high23 = hn::ConcatUpperUpper(d, x[3], x[2]);
  // low01 = [x0.0 x0.1 x1.0 x1.1]; its even blocks joined with low23's are block 0 of x0 to x3.
  store(j, WordVec{_mm512_shuffle_i32x4(low01.raw, low23.raw, 0x88)});
  store(4 + j, WordVec{_mm512_shuffle_i32x4(low01.raw, low23.raw, 0xdd)});
  store(8 + j, WordVec{_mm512_shuffle_i32x4(high01.raw, high23.raw, 0x88)});
  store(12 + j, WordVec{_mm512_shuffle_i32x4(high01.raw, high23.raw, 0xdd)});
#else
  store(j, hn::ConcatLowerLower(d, x[1], x[0]));
  store(4 + j, hn::ConcatUpperUpper(d, x[1], x[0]));
#endif
}

// kRowLanes words of kRowLanes rows, transposed: to[w · kRowLanes + row].
HWY_INLINE void transpose_words(const std::array<const std::byte*, kRowLanes>& rows, size_t byte,
                                uint32_t* to) {
  const WordTag d;
  const hn::Repartition<uint64_t, WordTag> d64;
  const auto as64 = [d64](WordVec v) HWY_ATTR { return hn::BitCast(d64, v); };
  const auto load = [&](size_t row) HWY_ATTR {
    return hn::LoadU(d, reinterpret_cast<const uint32_t*>(rows[row] + byte));
  };
  // quads[j][g]: words j, 4 + j, ... of rows 4g to 4g + 3, one in each 128-bit block.
  std::array<std::array<WordVec, kRowLanes / 4>, 4> quads;
  HWY_UNROLL(4)
  for (size_t g = 0; g < kRowLanes / 4; ++g) {
    const WordVec a = load(4 * g), b = load(4 * g + 1), c = load(4 * g + 2), e = load(4 * g + 3);
    const WordVec ab_low = hn::InterleaveLower(d, a, b), ab_high = hn::InterleaveUpper(d, a, b);
    const WordVec ce_low = hn::InterleaveLower(d, c, e), ce_high = hn::InterleaveUpper(d, c, e);
    quads[0][g] = hn::BitCast(d, hn::InterleaveLower(d64, as64(ab_low), as64(ce_low)));
    quads[1][g] = hn::BitCast(d, hn::InterleaveUpper(d64, as64(ab_low), as64(ce_low)));
    quads[2][g] = hn::BitCast(d, hn::InterleaveLower(d64, as64(ab_high), as64(ce_high)));
    quads[3][g] = hn::BitCast(d, hn::InterleaveUpper(d64, as64(ab_high), as64(ce_high)));
  }
  HWY_UNROLL(4)
  for (size_t j = 0; j < 4; ++j) transpose_blocks(quads[j], j, to);
}

// `bytes` bytes from byte `begin` on of one panel's rows. What lies beyond them, up to a whole line, is 0.
HWY_INLINE void stage_panel(const std::array<const std::byte*, kRowLanes>& rows, size_t begin, size_t bytes,
                            uint32_t* staged) {
  size_t at = 0;
  for (; at + kLineBytes <= bytes; at += kLineBytes)
    transpose_words(rows, begin + at, staged + at / sizeof(uint32_t) * kRowLanes);
  if (at == bytes) return;
  HWY_ALIGN std::byte tail[kRowLanes * kLineBytes] = {};
  std::array<const std::byte*, kRowLanes> tails;
  for (size_t row = 0; row < kRowLanes; ++row) {
    std::memcpy(tail + row * kLineBytes, rows[row] + begin + at, bytes - at);
    tails[row] = tail + row * kLineBytes;
  }
  transpose_words(tails, 0, staged + at / sizeof(uint32_t) * kRowLanes);
}

// Element j of every word, widened. `factor` is for codes alone: the scale times 2^120, which makes a code's
// exponent and mantissa bits, read as those of an FP32 number, its value.
template <class Element, size_t j>
HWY_INLINE FloatVec widen(WordVec words, FloatVec factor) {
  const WordTag d;
  const FloatTag df;
  if constexpr (sizeof(Element) == 4) {
    return hn::BitCast(df, words);
  } else if constexpr (sizeof(Element) == 2) {
    return hn::BitCast(df, j == 0 ? hn::ShiftLeft<16>(words) : hn::And(words, hn::Set(d, 0xffff0000u)));
  } else {
    const hn::RebindToSigned<WordTag> di;
    const auto top = hn::ShiftRight<4>(hn::BitCast(di, j == 3 ? words : hn::ShiftLeft<24 - 8 * j>(words)));
    const auto bits = hn::And(hn::BitCast(d, top), hn::Set(d, 0x87f00000u));
    return hn::Mul(hn::BitCast(df, bits), factor);
  }
}

// kGroup panels from `staged` on times kRows rows over one k-block: parts that join the running sums.
template <class Element, size_t kRows, size_t kGroup>
HWY_INLINE void multiply_staged(const uint32_t* staged, size_t words, const std::array<const float*, 4>& x,
                                const float* factors, FloatVec (&run)[kGroup][kRows]) {
  constexpr size_t kEach = sizeof(uint32_t) / sizeof(Element);
  const FloatTag d;
  FloatVec part[kGroup][kRows], factor[kGroup];
  for (size_t p = 0; p < kGroup; ++p) {
    factor[p] = sizeof(Element) == 1 ? hn::Load(d, factors + p * kRowLanes) : hn::Zero(d);
    for (size_t r = 0; r < kRows; ++r) part[p][r] = hn::Zero(d);
  }
  for (size_t w = 0; w < words; ++w) {
    const auto step = [&]<size_t j>(std::integral_constant<size_t, j>, const WordVec(&word)[kGroup]) HWY_ATTR {
      HWY_UNROLL(8)
      for (size_t p = 0; p < kGroup; ++p) {
        const FloatVec value = widen<Element, j>(word[p], factor[p]);
        HWY_UNROLL(4)
        for (size_t r = 0; r < kRows; ++r)
          part[p][r] = hn::MulAdd(splat(x[r][w * kEach + j]), value, part[p][r]);
      }
    };
    WordVec word[kGroup];
    HWY_UNROLL(8)
    for (size_t p = 0; p < kGroup; ++p)
      word[p] = hn::Load(WordTag(), staged + (p * kMostWords + w) * kRowLanes);
    step(std::integral_constant<size_t, 0>(), word);
    if constexpr (kEach >= 2) step(std::integral_constant<size_t, 1>(), word);
    if constexpr (kEach == 4) {
      step(std::integral_constant<size_t, 2>(), word);
      step(std::integral_constant<size_t, 3>(), word);
    }
  }
  for (size_t p = 0; p < kGroup; ++p)
    for (size_t r = 0; r < kRows; ++r) run[p][r] = hn::Add(run[p][r], part[p][r]);
}

// Outputs [first, first + kTaskOutputs) of a product of kRows rows, those that exist.
template <class Element, size_t kRows>
HWY_NOINLINE void rows_task(const RowsTask& task) {
  // Eight independent chains of FMAs keep the units busy; more would not fit AVX2's registers.
  constexpr size_t kGroup = std::min(kPanels, std::max<size_t>(1, 8 / kRows));
  const StoredWeight& w = *task.weight;
  const int64_t inputs = w.inputs(), outputs = std::min(kTaskOutputs, w.outputs() - task.first_output);
  const std::byte* base = w.values_OI.raw() + task.first_output * inputs * int64_t{sizeof(Element)};
  std::array<std::array<const std::byte*, kRowLanes>, kPanels> rows;  // those that do not exist repeat the last
  for (int64_t o = 0; o < kTaskOutputs; ++o)
    rows[static_cast<size_t>(o) / kRowLanes][static_cast<size_t>(o) % kRowLanes] =
        base + std::min(o, outputs - 1) * inputs * int64_t{sizeof(Element)};
  const size_t panels = (static_cast<size_t>(outputs) + kRowLanes - 1) / kRowLanes;
  HWY_ALIGN uint32_t staged[kStagedWords];
  HWY_ALIGN float factors[kTaskOutputs] = {};
  FloatVec run[kPanels / kGroup][kGroup][kRows];
  for (auto& group : run)
    for (auto& panel : group)
      for (FloatVec& sum : panel) sum = hn::Zero(FloatTag());
  for (int64_t k = 0; k < inputs; k += kKBlock) {
    const size_t bytes = static_cast<size_t>(std::min(kKBlock, inputs - k)) * sizeof(Element);
    for (size_t p = 0; p < panels; ++p)
      stage_panel(rows[p], static_cast<size_t>(k) * sizeof(Element), bytes, staged + p * kMostWords * kRowLanes);
    if constexpr (sizeof(Element) == 1) block_factors(task, k, outputs, factors);
    std::array<const float*, 4> x{};
    for (size_t r = 0; r < kRows; ++r) x[r] = task.x + static_cast<int64_t>(r) * task.x_stride + k;
    for (size_t g = 0; g * kGroup < panels; ++g)
      multiply_staged<Element, kRows, kGroup>(staged + g * kGroup * kMostWords * kRowLanes, (bytes + 3) / 4, x,
                                              factors + g * kGroup * kRowLanes, run[g]);
  }
  HWY_ALIGN float sums[kTaskOutputs];
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t p = 0; p < kPanels; ++p)
      hn::Store(run[p / kGroup][p % kGroup][r], FloatTag(), sums + p * kRowLanes);
    std::memcpy(task.y + static_cast<int64_t>(r) * w.outputs() + task.first_output, sums,
                static_cast<size_t>(outputs) * sizeof(float));
  }
}

template <class Element>
void rows_task_of(const RowsTask& task) {
  switch (task.rows) {
    case 1: return rows_task<Element, 1>(task);
    case 2: return rows_task<Element, 2>(task);
    case 3: return rows_task<Element, 3>(task);
    default: return rows_task<Element, 4>(task);
  }
}

}  // namespace
}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
