// T rows, P positions, J pairs, W row width.
#include "ops/rope.h"

#include "backend/cpu/dispatch.h"
#include "backend/cpu/element_type.h"
#include "backend/cpu/kernels_list.h"
#include "backend/cpu/pieces.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backend/cpu/rope.cc"
#include <hwy/foreach_target.h>
// After foreach_target.h, as Highway wants it.
#include "backend/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {
namespace {

// As many pairs at x as d has lanes.
template <class D>
HWY_INLINE void load_pairs(D d, const float* x, hn::Vec<D>& even, hn::Vec<D>& odd) {
  hn::LoadInterleaved2(d, x, even, odd);
}
template <class D>
HWY_INLINE void store_pairs(D d, hn::Vec<D> even, hn::Vec<D> odd, float* x) {
  hn::StoreInterleaved2(even, odd, d, x);
}
// A pair of bf16 is one lane: the even one in its lower half.
template <class D>
HWY_INLINE void load_pairs(D d, const bf16* x, hn::Vec<D>& even, hn::Vec<D>& odd) {
  const hn::RebindToUnsigned<D> du;
  const auto pairs = hn::LoadU(du, reinterpret_cast<const uint32_t*>(x));
  even = hn::BitCast(d, hn::ShiftLeft<16>(pairs));
  odd = hn::BitCast(d, hn::And(pairs, hn::Set(du, 0xffff0000u)));
}
template <class D>
HWY_INLINE void store_pairs(D d, hn::Vec<D> even, hn::Vec<D> odd, bf16* x) {
  const auto pairs = hn::Or(narrowed_bits(d, even), hn::ShiftLeft<16>(narrowed_bits(d, odd)));
  hn::StoreU(pairs, hn::RebindToUnsigned<D>(), reinterpret_cast<uint32_t*>(x));
}

// Turns them. `sign` is 1, or −1 to turn back.
template <class D, class T>
HWY_INLINE void turn(D d, T* x, const float* cosines, const float* sines, float sign) {
  hn::Vec<D> even, odd;
  load_pairs(d, x, even, odd);
  const auto c = hn::LoadU(d, cosines), s = hn::Mul(hn::Set(d, sign), hn::LoadU(d, sines));
  const auto turned_even = hn::NegMulAdd(odd, s, hn::Mul(even, c));
  const auto turned_odd = hn::MulAdd(even, s, hn::Mul(odd, c));
  store_pairs(d, turned_even, turned_odd, x);
}

template <class T>
HWY_INLINE void turn_pairs(T* x, int64_t pairs, const float* cosines, const float* sines, float sign) {
  int64_t j = 0;
  for (; j + kVectorLanes <= pairs; j += kVectorLanes)
    turn(FloatTag(), x + 2 * j, cosines + j, sines + j, sign);
  for (; j < pairs; ++j) turn(hn::CappedTag<float, 1>(), x + 2 * j, cosines + j, sines + j, sign);
}

template <class T>
void apply_rows(Exec& exec, const Tensor& x_TW, const RopeLayout& layout, const Tensor& cos_PJ,
                const Tensor& sin_PJ, int64_t rows_per_sample, bool inverse) {
  const int64_t pairs = cos_PJ.extent(1), width = x_TW.extent(1);
  const float sign = inverse ? -1.0f : 1.0f;
  T* x_all = x_TW.data<T>();
  const float *cos_all = cos_PJ.data<float>(), *sin_all = sin_PJ.data<float>();
  const auto turn_head = [&](T* x, const float* cosines, const float* sines)
                             HWY_ATTR { turn_pairs(x, pairs, cosines, sines, sign); };
  exec.pool->for_ranges(x_TW.extent(0), rows_per_piece(layout.heads * 2 * pairs),
                        [&](int64_t begin, int64_t end, int) {
                          for (int64_t t = begin; t < end; ++t) {
                            const int64_t position = t % rows_per_sample;
                            for (int64_t head = 0; head < layout.heads; ++head)
                              turn_head(x_all + t * width + (head + 1) * layout.head_width - 2 * pairs,
                                        cos_all + position * pairs, sin_all + position * pairs);
                          }
                        });
}

void apply(Exec& exec, const Tensor& x_TW, const RopeLayout& layout, const Tensor& cos_PJ,
           const Tensor& sin_PJ, int64_t rows_per_sample, bool inverse) {
  for_element_type(
      x_TW, [&]<class T>(T) { apply_rows<T>(exec, x_TW, layout, cos_PJ, sin_PJ, rows_per_sample, inverse); });
}

RopeKernels kernel_table() {
  return {apply};
}

}  // namespace
}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace moray::cpu {
namespace {
HWY_EXPORT(kernel_table);
RopeKernels table() {
  return HWY_DYNAMIC_DISPATCH(kernel_table)();
}
}  // namespace

void register_rope() {
  kernels<RopeKernels>(Device::cpu) = {dispatched<&RopeKernels::apply, table>};
}

}  // namespace moray::cpu
#endif  // HWY_ONCE
