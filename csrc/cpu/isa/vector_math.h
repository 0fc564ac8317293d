// Exponential and logarithm of vectors, and questions about masks. Single precision by polynomials within two units of
// the last place (the coefficients are those of Cephes, by S. Moshier); double precision by the C library.
#pragma once

#include <cmath>

#include "simd.h"

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace desc_ext::cpu::DESC_EXT_ISA {

// The integers of a comparison's result: −1 where true.
template <class T>
using MaskElement = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
template <class T>
using Mask = Vector<MaskElement<T>>;

template <class T>
static inline bool any(Mask<T> mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi64_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX__)
  return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
#else
  MaskElement<T> bits = 0;
  for (int i = 0; i < kLanes<T>; ++i) bits |= mask[i];
  return bits != 0;
#endif
}

// value where the mask is set, else 0.
template <class T>
static inline Vector<T> where(Mask<T> mask, Vector<T> value) {
  return (Vector<T>)(mask & (Mask<T>)value);
}

template <class T>
static inline Vector<T> pick(Mask<T> mask, Vector<T> yes, Vector<T> no) {
  return (Vector<T>)((mask & (Mask<T>)yes) | (~mask & (Mask<T>)no));
}

template <class T>
static inline Vector<T> magnitude(Vector<T> x) {
  constexpr auto rest = MaskElement<T>(~(std::make_unsigned_t<MaskElement<T>>(1) << (8 * sizeof(T) - 1)));
  return (Vector<T>)((Mask<T>)x & rest);
}

// The sign bit of `sign` put on top of x.
template <class T>
static inline Vector<T> with_sign(Vector<T> x, Vector<T> sign) {
  constexpr auto bit = MaskElement<T>(std::make_unsigned_t<MaskElement<T>>(1) << (8 * sizeof(T) - 1));
  return (Vector<T>)((Mask<T>)x ^ ((Mask<T>)sign & bit));
}

template <class T>
static inline Vector<T> larger(Vector<T> a, Vector<T> b) {  // a where b is NaN
  return pick<T>(b > a, b, a);
}

template <class T>
static inline Vector<T> clamp(Vector<T> x, T low, T high) {
  const Vector<T> zero{}, least = zero + low, most = zero + high;
  x = pick<T>(x < least, least, x);
  return pick<T>(x > most, most, x);
}

static inline Vector<double> exponential(Vector<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = std::exp(x[i]);
  return x;
}

static inline Vector<double> logarithm(Vector<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = std::log(x[i]);
  return x;
}

// 0 below −87.3, where the result would be subnormal; x ≤ 88.
static inline Vector<float> exponential(Vector<float> x) {
  constexpr float kShift = 12582912.0f;  // 1.5·2²³: adding it rounds to an integer, kept in the low bits
  const Mask<float> small = x < Vector<float>{} - 87.3f;
  const Vector<float> shifted = x * 1.44269504088896341f + kShift, n = shifted - kShift;
  const Vector<float> r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vector<float> y = r * 1.9875691500e-4f + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * (r * r) + r + 1.0f;
  // unsigned, which may overflow: where x is small the result is left out
  typedef uint32_t Words __attribute__((vector_size(sizeof(Vector<float>))));
  const Words power = ((Words)shifted - (Words)(Vector<float>{} + kShift)) << 23;
  return where<float>(~small, (Vector<float>)((Words)y + power));
}

// x positive and normal.
static inline Vector<float> logarithm(Vector<float> x) {
  // x = m·2^e with m in [√½, √2).
  const Mask<float> bits = (Mask<float>)x, shifted = bits - 0x3f3504f3;
  const Mask<float> e = shifted >> 23;
  const Vector<float> m = (Vector<float>)((shifted & 0x007fffff) + 0x3f3504f3) - 1.0f, square = m * m;
  const Vector<float> exponent = __builtin_convertvector(e, Vector<float>);
  Vector<float> y = m * 7.0376836292e-2f - 1.1514610310e-1f;
  y = y * m + 1.1676998740e-1f;
  y = y * m - 1.2420140846e-1f;
  y = y * m + 1.4249322787e-1f;
  y = y * m - 1.6668057665e-1f;
  y = y * m + 2.0000714765e-1f;
  y = y * m - 2.4999993993e-1f;
  y = y * m + 3.3333331174e-1f;
  y = y * m * square - 0.5f * square + exponent * -2.12194440e-4f;
  return m + y + exponent * 0.693359375f;
}

}  // namespace desc_ext::cpu::DESC_EXT_ISA
