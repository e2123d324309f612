// exp, log and sigmoid on Highway f32 vectors: each lane is a pure function of its input, with the same bits
// on every instruction set that has fused multiply-add, and no libm.
//
// Greatest errors measured by vector_math_test over the whole range, in units in the last place of the result
// (subnormal results included): exp 1.0, log 1.0, sigmoid 1.5. NaN gives NaN.
//
// Included once per Highway target (hence the toggled guard); call from a file that uses foreach_target.h.
#if defined(MORAY_BACKEND_CPU_VECTOR_MATH_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MORAY_BACKEND_CPU_VECTOR_MATH_H_
#undef MORAY_BACKEND_CPU_VECTOR_MATH_H_
#else
#define MORAY_BACKEND_CPU_VECTOR_MATH_H_
#endif

#include <hwy/highway.h>

#include <type_traits>

HWY_BEFORE_NAMESPACE();
namespace moray::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// exp(x − n·ln 2) for n = round(x / ln 2): a remainder r of at most ln2/2 in magnitude.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp_of_remainder(D d, V x, V n) {
  // ln 2 in two pieces; the first has 9 trailing zero bits, so that n·piece is exact.
  const V high = hn::NegMulAdd(n, hn::Set(d, 0.693145751953125f), x);
  const V r = hn::NegMulAdd(n, hn::Set(d, 1.428606765330187e-6f), high);
  // eʳ = 1 + r + r²·q(r): a near-minimax polynomial (Cephes expf).
  V q = hn::MulAdd(hn::Set(d, 1.9875691500e-4f), r, hn::Set(d, 1.3981999507e-3f));
  q = hn::MulAdd(q, r, hn::Set(d, 8.3334519073e-3f));
  q = hn::MulAdd(q, r, hn::Set(d, 4.1665795894e-2f));
  q = hn::MulAdd(q, r, hn::Set(d, 1.6666665459e-1f));
  q = hn::MulAdd(q, r, hn::Set(d, 5.0000001201e-1f));
  return hn::Add(hn::MulAdd(q, hn::Mul(r, r), r), hn::Set(d, 1.0f));
}

// e · 2ⁿ for whole n in [−152, 130] and e near 1, rounded once where the result is subnormal.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V times_power_of_two(D d, V e, V n) {
#if HWY_TARGET == HWY_AVX3
  if constexpr (std::is_same_v<V, hn::Vec<hn::ScalableTag<float>>>) return V{_mm512_scalef_ps(e.raw, n.raw)};
#endif
  // In two factors: the first product is exact, the second rounds once or overflows.
  const hn::RebindToSigned<D> di;
  const auto ni = hn::ConvertTo(di, n);
  const auto half = hn::ShiftRight<1>(ni);
  const auto bias = hn::Set(di, 127);
  const V scale_a = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(half, bias)));
  const V scale_b = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(hn::Sub(ni, half), bias)));
  return hn::Mul(hn::Mul(e, scale_a), scale_b);
}

// eˣ; 0 below −104 and +infinity above 88.8, gradual underflow in between.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V vector_exp(D d, V x) {
  // Beyond these bounds the result is 0 or infinity anyway.
  const V clamped = hn::Min(hn::Max(x, hn::Set(d, -105.0f)), hn::Set(d, 90.0f));
  const V n = hn::Round(hn::Mul(clamped, hn::Set(d, 1.44269504088896341f)));
  const V e = exp_of_remainder(d, clamped, n);
  return hn::IfThenElse(hn::IsNaN(x), x, times_power_of_two(d, e, n));
}

// eˣ for x that is at most a rounding error above 0, as softmax needs it: like vector_exp, but 0 below −87.3
// (where results would be subnormal) and without the care for large x. Beyond +88 the result is meaningless.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V vector_exp_nonpositive(D d, V x) {
  const hn::RebindToSigned<D> di;
  const V lowest = hn::Set(d, -87.3f);
  const V clamped = hn::Max(lowest, x);  // in this order the processor's maximum keeps a NaN in x
  const V n = hn::Round(hn::Mul(clamped, hn::Set(d, 1.44269504088896341f)));
  const auto exponent = hn::Add(hn::ConvertTo(di, n), hn::Set(di, 127));
  const V scale = hn::BitCast(d, hn::ShiftLeft<23>(exponent));
  return hn::IfThenZeroElse(hn::Lt(x, lowest), hn::Mul(exp_of_remainder(d, clamped, n), scale));
}

// Natural logarithm; −infinity at 0, NaN below, +infinity at +infinity. Subnormals are exact inputs too.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V vector_log(D d, V x) {
  const hn::RebindToSigned<D> di;
  const V zero = hn::Zero(d);
  const V infinity = hn::BitCast(d, hn::Set(di, 0x7f800000));
  const auto tiny = hn::Lt(x, hn::Set(d, 1.17549435e-38f));
  const V normal = hn::IfThenElse(tiny, hn::Mul(x, hn::Set(d, 0x1p23f)), x);
  // x = 2ⁿ·m with m in [sqrt(1/2), sqrt(2)): subtracting the bits of sqrt(1/2) makes the exponent field carry
  // n.
  const auto bits = hn::BitCast(di, normal);
  const auto offset = hn::Sub(bits, hn::Set(di, 0x3f3504f3));
  const auto exponent = hn::ShiftRight<23>(offset);
  const V m = hn::BitCast(d, hn::Sub(bits, hn::ShiftLeft<23>(exponent)));
  const V n = hn::Sub(hn::ConvertTo(d, exponent), hn::IfThenElseZero(tiny, hn::Set(d, 23.0f)));
  const V f = hn::Sub(m, hn::Set(d, 1.0f));
  const V z = hn::Mul(f, f);
  // log(1 + f) = f − f²/2 + f³·q(f) (Cephes logf).
  V q = hn::MulAdd(hn::Set(d, 7.0376836292e-2f), f, hn::Set(d, -1.1514610310e-1f));
  q = hn::MulAdd(q, f, hn::Set(d, 1.1676998740e-1f));
  q = hn::MulAdd(q, f, hn::Set(d, -1.2420140846e-1f));
  q = hn::MulAdd(q, f, hn::Set(d, 1.4249322787e-1f));
  q = hn::MulAdd(q, f, hn::Set(d, -1.6668057665e-1f));
  q = hn::MulAdd(q, f, hn::Set(d, 2.0000714765e-1f));
  q = hn::MulAdd(q, f, hn::Set(d, -2.4999993993e-1f));
  q = hn::MulAdd(q, f, hn::Set(d, 3.3333331174e-1f));
  V low = hn::Mul(q, hn::Mul(f, z));
  low = hn::MulAdd(n, hn::Set(d, -2.12194440e-4f), low);
  low = hn::MulAdd(hn::Set(d, -0.5f), z, low);
  V result = hn::MulAdd(n, hn::Set(d, 0.693359375f), hn::Add(f, low));
  result = hn::IfThenElse(hn::Eq(x, infinity), infinity, result);
  result = hn::IfThenElse(hn::Eq(x, zero), hn::Neg(infinity), result);
  const V nan = hn::BitCast(d, hn::Set(di, 0x7fc00000));
  return hn::IfThenElse(hn::Lt(x, zero), nan, hn::IfThenElse(hn::IsNaN(x), x, result));
}

// 1 / (1 + e⁻ˣ), computed from e^−|x| so that small results keep their relative precision.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V vector_sigmoid(D d, V x) {
  const V one = hn::Set(d, 1.0f);
  const V e = vector_exp(d, hn::Neg(hn::Abs(x)));
  const V numerator = hn::IfThenElse(hn::Lt(x, hn::Zero(d)), e, one);
  const V sum = hn::Add(one, e);
  const V lost = hn::Sub(e, hn::Sub(sum, one));  // 1 + e = sum + lost exactly
  const V inverse = hn::Div(one, sum);
  const V residual = hn::NegMulAdd(lost, inverse, hn::NegMulAdd(sum, inverse, one));
  return hn::MulAdd(numerator, inverse, hn::Mul(hn::Mul(numerator, inverse), residual));
}

}  // namespace moray::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
