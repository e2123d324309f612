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

#include "backend/cpu/weight_rows.h"
#include "backend/cpu/weight_words-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {
namespace {

constexpr size_t kTaskVectors = static_cast<size_t>(kTaskOutputs) / kWordLanes;
constexpr size_t kLineBytes = kWordLanes * sizeof(uint32_t);

// Words of a k-block for kWordLanes outputs each: word w of vector v begins at (v · kMostWords + w) ·
// kWordLanes.
constexpr size_t kMostWords = static_cast<size_t>(kKBlock);
constexpr size_t kStagedWords = kTaskVectors * kMostWords * kWordLanes;

// Blocks of 128 bits of four vectors, transposed (AVX2: of two, twice).
HWY_INLINE void transpose_blocks(const std::array<WordVec, kWordLanes / 4>& x, size_t j, uint32_t* to) {
  const WordTag d;
  const auto store = [&](size_t word, WordVec v) HWY_ATTR { hn::Store(v, d, to + word * kWordLanes); };
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

// kWordLanes words of kWordLanes rows, transposed: to[w · kWordLanes + row].
HWY_INLINE void transpose_words(const std::array<const std::byte*, kWordLanes>& rows, size_t byte,
                                uint32_t* to) {
  const WordTag d;
  const hn::Repartition<uint64_t, WordTag> d64;
  const auto as64 = [d64](WordVec v) HWY_ATTR { return hn::BitCast(d64, v); };
  const auto load = [&](size_t row) HWY_ATTR {
    return hn::LoadU(d, reinterpret_cast<const uint32_t*>(rows[row] + byte));
  };
  // quads[j][g]: words j, 4 + j, ... of rows 4g to 4g + 3, one in each 128-bit block.
  std::array<std::array<WordVec, kWordLanes / 4>, 4> quads;
  HWY_UNROLL(4)
  for (size_t g = 0; g < kWordLanes / 4; ++g) {
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

// `bytes` bytes from byte `begin` on of one vector's rows. What lies beyond them, up to a whole line, is 0.
HWY_INLINE void stage_rows(const std::array<const std::byte*, kWordLanes>& rows, size_t begin, size_t bytes,
                           uint32_t* staged) {
  size_t at = 0;
  for (; at + kLineBytes <= bytes; at += kLineBytes)
    transpose_words(rows, begin + at, staged + at / sizeof(uint32_t) * kWordLanes);
  if (at == bytes) return;
  HWY_ALIGN std::byte tail[kWordLanes * kLineBytes] = {};
  std::array<const std::byte*, kWordLanes> tails;
  for (size_t row = 0; row < kWordLanes; ++row) {
    std::memcpy(tail + row * kLineBytes, rows[row] + begin + at, bytes - at);
    tails[row] = tail + row * kLineBytes;
  }
  transpose_words(tails, 0, staged + at / sizeof(uint32_t) * kWordLanes);
}

// Outputs [first, first + kTaskOutputs) of a product of kRows rows, those that exist.
template <class Element, size_t kRows>
HWY_NOINLINE void rows_task(const RowsTask& task) {
  // Eight independent chains of FMAs keep the units busy; more would not fit AVX2's registers.
  constexpr size_t kGroup = std::min(kTaskVectors, std::max<size_t>(1, 8 / kRows));
  const StoredWeight& w = *task.weight;
  const int64_t inputs = w.inputs(), outputs = task.outputs;
  const std::byte* base = w.values_OI.raw() + task.first_output * inputs * int64_t{sizeof(Element)};
  std::array<std::array<const std::byte*, kWordLanes>, kTaskVectors>
      rows;  // those that do not exist repeat the last
  for (int64_t o = 0; o < kTaskOutputs; ++o)
    rows[static_cast<size_t>(o) / kWordLanes][static_cast<size_t>(o) % kWordLanes] =
        base + std::min(o, outputs - 1) * inputs * int64_t{sizeof(Element)};
  const size_t vectors = (static_cast<size_t>(outputs) + kWordLanes - 1) / kWordLanes;
  HWY_ALIGN uint32_t staged[kStagedWords];
  FloatVec run[kTaskVectors / kGroup][kGroup][kRows];
  for (auto& group : run)
    for (auto& vector : group)
      for (FloatVec& sum : vector) sum = hn::Zero(FloatTag());
  for (int64_t k = 0; k < inputs; k += kKBlock) {
    const size_t bytes = static_cast<size_t>(std::min(kKBlock, inputs - k)) * sizeof(Element);
    for (size_t v = 0; v < vectors; ++v)
      stage_rows(rows[v], static_cast<size_t>(k) * sizeof(Element), bytes,
                 staged + v * kMostWords * kWordLanes);
    std::array<const float*, kRows> x{};
    for (size_t r = 0; r < kRows; ++r) x[r] = task.x + static_cast<int64_t>(r) * task.x_stride + k;
    for (size_t g = 0; g * kGroup < vectors; ++g) {
      FloatVec part[kGroup][kRows];
      multiply_words<Element, kWordLanes>(
          (bytes + 3) / 4,
          [&](size_t v) HWY_ATTR { return staged + (g * kGroup + v) * kMostWords * kWordLanes; },
          [&](size_t, size_t r) HWY_ATTR { return x[r]; }, [](size_t) {}, part);
      for (size_t v = 0; v < kGroup; ++v) {
        const auto output = task.first_output + static_cast<int64_t>((g * kGroup + v) * kWordLanes);
        const FloatVec scale = scales<Element>(task, output, k);
        for (size_t r = 0; r < kRows; ++r)
          run[g][v][r] = joined_part<Element>(part[v][r], scale, run[g][v][r]);
      }
    }
  }
  HWY_ALIGN float sums[kTaskOutputs];
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t v = 0; v < kTaskVectors; ++v)
      hn::Store(run[v / kGroup][v % kGroup][r], FloatTag(), sums + v * kWordLanes);
    std::memcpy(task.y + static_cast<int64_t>(r) * w.outputs() + task.first_output, sums,
                static_cast<size_t>(outputs) * sizeof(float));
  }
}

template <class Element>
void rows_task_of(const RowsTask& task) {
  switch (task.rows) {
    case 1:
      return rows_task<Element, 1>(task);
    case 2:
      return rows_task<Element, 2>(task);
    case 3:
      return rows_task<Element, 3>(task);
    default:
      return rows_task<Element, 4>(task);
  }
}

}  // namespace
}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
