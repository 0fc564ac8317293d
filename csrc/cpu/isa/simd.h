// Vectors of the instruction set that this translation unit is compiled for (compiler vector extensions, so that
// one text serves SSE2, AVX2, AVX-512 and NEON), and conversions between stored and computed elements.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace desc_ext::cpu::DESC_EXT_ISA {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
inline constexpr int kTileColumns = 12;  // 2 × 12 accumulators of 32 registers
#elif defined(__AVX__)
inline constexpr int kVectorBytes = 32;
inline constexpr int kTileColumns = 6;  // 2 × 6 accumulators of 16 registers
#elif defined(__aarch64__)
inline constexpr int kVectorBytes = 16;
inline constexpr int kTileColumns = 12;  // 2 × 12 accumulators of 32 registers
#else
inline constexpr int kVectorBytes = 16;
inline constexpr int kTileColumns = 6;
#endif

#if defined(__clang__)
#define DESC_EXT_UNROLL _Pragma("unroll")
#else
#define DESC_EXT_UNROLL _Pragma("GCC unroll 16")
#endif

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vector = typename VectorOf<T>::type;
template <class T>
inline constexpr int kLanes = kVectorBytes / int(sizeof(T));
// A strip of rows: two vectors, one row a lane.
template <class T>
inline constexpr int kStrip = 2 * kLanes<T>;

template <class T>
static inline Vector<T> load(const T* from) {
  Vector<T> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <class T>
static inline void store(T* to, Vector<T> v) {
  std::memcpy(to, &v, sizeof v);
}

#if defined(__AVX__) && !defined(__AVX512F__)
template <class T>
static inline __m256i first_lanes(int64_t count) {
  alignas(32) static constexpr int32_t kBits[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  return _mm256_loadu_si256((const __m256i*)(kBits + 8 - count * int64_t(sizeof(T) / 4)));
}
#endif

// The first `count` elements, 1 ≤ count ≤ lanes, and 0 behind them; nothing else is read.
template <class T>
static inline Vector<T> load_first(const T* from, int64_t count) {
  Vector<T> v{};
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    v = (Vector<T>)_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), from);
  else
    v = (Vector<T>)_mm512_maskz_loadu_pd(__mmask8((1u << count) - 1), from);
#elif defined(__AVX__)
  if constexpr (sizeof(T) == 4)
    v = (Vector<T>)_mm256_maskload_ps(from, first_lanes<T>(count));
  else
    v = (Vector<T>)_mm256_maskload_pd(from, first_lanes<T>(count));
#else
  for (int64_t i = 0; i < count; ++i) v[i] = from[i];
#endif
  return v;
}

// Writes the first `count` elements, 1 ≤ count ≤ lanes, and nothing else.
template <class T>
static inline void store_first(T* to, Vector<T> v, int64_t count) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    _mm512_mask_storeu_ps(to, __mmask16((1u << count) - 1), (__m512)v);
  else
    _mm512_mask_storeu_pd(to, __mmask8((1u << count) - 1), (__m512d)v);
#elif defined(__AVX__)
  if constexpr (sizeof(T) == 4)
    _mm256_maskstore_ps(to, first_lanes<T>(count), (__m256)v);
  else
    _mm256_maskstore_pd(to, first_lanes<T>(count), (__m256d)v);
#else
  for (int64_t i = 0; i < count; ++i) to[i] = v[i];
#endif
}

// By halves, which is quicker and more accurate than one lane after the other.
template <class T>
static inline T lane_sum(Vector<T> v) {
  T sum[kLanes<T>];
  std::memcpy(sum, &v, sizeof v);
  DESC_EXT_UNROLL
  for (int width = kLanes<T> / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) sum[i] += sum[i + width];
  return sum[0];
}

// Row r of the square a becomes column r, by log2(lanes) perfect shuffles of all rows.
template <class T>
static inline void transpose_square(Vector<T>* a) {
  constexpr int L = kLanes<T>;
  using Index = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  Vector<Index> low, high;
  for (int i = 0; i < L; ++i) {
    low[i] = i / 2 + (i % 2) * L;
    high[i] = i / 2 + L / 2 + (i % 2) * L;
  }
  Vector<T> b[L];
  DESC_EXT_UNROLL
  for (int step = 1; step < L; step *= 2) {
    DESC_EXT_UNROLL
    for (int i = 0; i < L / 2; ++i) {
#if defined(__clang__)
      for (int j = 0; j < L; ++j) {
        b[2 * i][j] = low[j] < L ? a[i][low[j]] : a[i + L / 2][low[j] - L];
        b[2 * i + 1][j] = high[j] < L ? a[i][high[j]] : a[i + L / 2][high[j] - L];
      }
#else
      b[2 * i] = __builtin_shuffle(a[i], a[i + L / 2], low);
      b[2 * i + 1] = __builtin_shuffle(a[i], a[i + L / 2], high);
#endif
    }
    DESC_EXT_UNROLL
    for (int i = 0; i < L; ++i) a[i] = b[i];
  }
}

static inline float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

static inline uint32_t to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

static inline float bfloat16_to_float(uint16_t half) { return from_bits(uint32_t(half) << 16); }

static inline uint16_t float_to_bfloat16(float value) {
  const uint32_t bits = to_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t((bits >> 16) | 0x40u);
  return uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static inline float float16_to_float(uint16_t half) {
  const uint32_t sign = uint32_t(half & 0x8000u) << 16, magnitude = half & 0x7fffu;
  if (magnitude >= 0x7c00u) return from_bits(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // Scaling by 2^112 sets the exponent bias right for normal and subnormal numbers alike.
  return from_bits(sign | to_bits(from_bits(magnitude << 13) * 0x1p112f));
}

static inline uint16_t float_to_float16(float value) {
  const uint32_t bits = to_bits(value), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return uint16_t(sign | 0x7e00u);
  if (magnitude >= 0x47800000u) return uint16_t(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {
    // Subnormal halves: adding 0.5 leaves the rounded multiple of 2^-24 in the low bits.
    return uint16_t(sign | (to_bits(from_bits(magnitude) + 0.5f) - 0x3f000000u));
  }
  return uint16_t(sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13));
}

// A vector of float16 numbers to float and back, by the instructions that are there for it.
static inline Vector<float> load_float16(const uint16_t* from) {
#if defined(__AVX512F__)
  return (Vector<float>)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256((const __m256i*)from));
#elif defined(__F16C__)
  return (Vector<float>)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from));
#else
  Vector<float> v;
  for (int i = 0; i < kLanes<float>; ++i) v[i] = float16_to_float(from[i]);
  return v;
#endif
}

static inline void store_float16(uint16_t* to, Vector<float> v) {
#if defined(__AVX512F__)
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  _mm256_storeu_si256((__m256i*)to, _mm512_maskz_cvtps_ph(0xffff, (__m512)v, kNearest));  // maskz: g++ 12 warns without
#elif defined(__F16C__)
  _mm_storeu_si128((__m128i*)to, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  for (int i = 0; i < kLanes<float>; ++i) to[i] = float_to_float16(v[i]);
#endif
}

}  // namespace desc_ext::cpu::DESC_EXT_ISA
