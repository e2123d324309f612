// Weights as words of 32 bits, whose lanes are outputs: one f32, two bf16 or four E4M3 codes of consecutive
// k. tensor/panels.h keeps them so in memory, weight_rows-inl.h a k-block at a time in L1.

// Included once per Highway target, hence the toggled guard.
#if defined(MORAY_WEIGHT_WORDS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MORAY_WEIGHT_WORDS_INL_H_
#undef MORAY_WEIGHT_WORDS_INL_H_
#else
#define MORAY_WEIGHT_WORDS_INL_H_
#endif

#include <algorithm>
#include <array>
#include <type_traits>

#include "backend/cpu/lanes-inl.h"
#include "backend/cpu/weight_rows.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {
namespace {

using WordTag = hn::ScalableTag<uint32_t>;
using WordVec = hn::Vec<WordTag>;
constexpr size_t kWordLanes = static_cast<size_t>(kVectorLanes);

template <class Element>
constexpr size_t kInWord = sizeof(uint32_t) / sizeof(Element);

// Element j of every word, exactly. Codes are none of the two NaNs: as the bits of an FP32 number the
// exponent and mantissa of a code lack only the difference of the biases, 2¹²⁰. Two codes at a time get their
// sign at the front of 16 bits and the rest behind where FP32 has the end of its exponent and the mantissa.
template <class Element, size_t j>
HWY_INLINE FloatVec widen(WordVec words) {
  const WordTag d;
  const FloatTag df;
  if constexpr (sizeof(Element) == 4) {
    return hn::BitCast(df, words);
  } else if constexpr (sizeof(Element) == 2) {
    return hn::BitCast(df, j == 0 ? hn::ShiftLeft<16>(words) : hn::And(words, hn::Set(d, 0xffff0000u)));
  } else {
    const hn::Repartition<int16_t, WordTag> d16;
    const auto halves = hn::BitCast(d16, words);
    const WordVec two = hn::BitCast(d, hn::ShiftRight<4>(j % 2 == 1 ? halves : hn::ShiftLeft<8>(halves)));
    const WordVec bits = hn::And(j < 2 ? hn::ShiftLeft<16>(two) : two, hn::Set(d, 0x87f00000u));
    return hn::Mul(hn::BitCast(df, bits), hn::Set(df, 0x1p120f));
  }
}

// body(std::integral_constant<size_t, j>) for the elements of a word in order.
template <class Element, class Body>
HWY_INLINE void for_elements_of_word(const Body& body) {
  body(std::integral_constant<size_t, 0>());
  if constexpr (kInWord<Element> >= 2) body(std::integral_constant<size_t, 1>());
  if constexpr (kInWord<Element> == 4) {
    body(std::integral_constant<size_t, 2>());
    body(std::integral_constant<size_t, 3>());
  }
}

// part[v][r] = the sum over `words` words, kStep apart from at(v) on, times the numbers from x(v, r) on.
// Meanwhile `ask`(w) for what will be wanted.
template <class Element, size_t kStep, size_t kRows, size_t kVectors, class At, class X, class Ask>
HWY_INLINE void multiply_words(size_t words, const At& at, const X& x, const Ask& ask,
                               FloatVec (&part)[kVectors][kRows]) {
  for (auto& of_rows : part)
    for (FloatVec& sum : of_rows) sum = hn::Zero(FloatTag());
  for (size_t w = 0; w < words; ++w) {
    ask(w);
    WordVec word[kVectors];
    HWY_UNROLL(8)
    for (size_t v = 0; v < kVectors; ++v) word[v] = hn::LoadU(WordTag(), at(v) + w * kStep);
    for_elements_of_word<Element>([&]<size_t j>(std::integral_constant<size_t, j>) HWY_ATTR {
      HWY_UNROLL(8)
      for (size_t v = 0; v < kVectors; ++v) {
        const FloatVec value = widen<Element, j>(word[v]);
        HWY_UNROLL(4)
        for (size_t r = 0; r < kRows; ++r)
          part[v][r] = hn::MulAdd(splat(x(v, r)[w * kInWord<Element> + j]), value, part[v][r]);
      }
    });
  }
}

// What joins the parts of a block of codes, for the outputs of a vector from `output` on, in the k-block at
// k.
template <class Element>
HWY_INLINE FloatVec scales(const RowsTask& task, int64_t output, int64_t k) {
  if constexpr (sizeof(Element) > 1) return hn::Zero(FloatTag());
  const Tensor& blocks = task.weight->scales;
  const float* of_k = blocks.data<float>() + k / kTile;
  const int64_t row = task.weight->first_row + output,
                last = task.weight->first_row + task.weight->outputs() - 1;
  const auto at = [&](int64_t lane) { return of_k[std::min(row + lane, last) / kTile * blocks.extent(1)]; };
  if (row % kTile <= kTile - kVectorLanes) return hn::Set(FloatTag(), at(0));  // of one tile
  HWY_ALIGN float of_lanes[kWordLanes];
  for (int64_t lane = 0; lane < kVectorLanes; ++lane) of_lanes[lane] = at(lane);
  return hn::Load(FloatTag(), of_lanes);
}

// A running sum after a block.
template <class Element>
HWY_INLINE FloatVec joined_part(FloatVec part, FloatVec scale, FloatVec run) {
  return sizeof(Element) > 1 ? hn::Add(run, part) : hn::MulAdd(scale, part, run);
}

}  // namespace
}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
