// float16 under CUDA's names: storage and conversions, rounded to nearest even. Arithmetic is not offered.
#pragma once

#include <bit>
#include <cstdint>

#include "emulator/keywords.h"

struct __half {
  unsigned short bits;
};

inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
inline unsigned short __half_as_ushort(__half x) { return x.bits; }

inline float __half2float(__half x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, rest = x.bits & 0x7fff;
  if (rest >= 0x7c00) return std::bit_cast<float>(sign | 0x7f800000u | (rest & 0x3ff) << 13);
  // Scaling by 2^112 moves the exponent's bias and gives subnormals their value.
  const float magnitude = std::bit_cast<float>(rest << 13) * 0x1p112f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
}

inline __half __float2half_rn(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffffu;
  const auto half = [&](uint32_t magnitude) { return __half{uint16_t(sign | magnitude)}; };
  if (rest > 0x7f800000u) return half(0x7e00);
  if (rest >= 0x477ff000u) return half(0x7c00);  // rounds to 65536 or more
  if (rest < 0x38800000u)                        // subnormal: let the addition round to 2^-24
    return half(std::bit_cast<uint32_t>(std::bit_cast<float>(rest) + 0.5f) - 0x3f000000u);
  return half((rest - 0x38000000u + 0xfffu + (rest >> 13 & 1)) >> 13);
}

struct alignas(4) __half2 {
  __half x, y;
};

inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
inline float2 __half22float2(__half2 x) { return {__half2float(x.x), __half2float(x.y)}; }
