#include "emulator/tensor_core.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "emulator/settings.h"

namespace emulator {
namespace {

constexpr int kNothing = -1000;  // the exponent of zero: below all others, that of a product with it too

// A number is significand · 2^(exponent − kFraction), its significand below 2; subnormals keep their least exponent.
template <Element16 element>
struct Decoded {
  static constexpr int kFraction = element == Element16::f16 ? 10 : 7;
  static constexpr int kExponentBits = 15 - kFraction, kBias = (1 << (kExponentBits - 1)) - 1;

  int32_t significand[16], exponent[16];
  bool finite = true;

  explicit Decoded(const uint16_t (&bits)[16]) {
    int special = 0;
    for (int k = 0; k < 16; ++k) {
      const int magnitude = bits[k] & 0x7FFF, power = magnitude >> kFraction, rest = magnitude & ((1 << kFraction) - 1);
      special |= power == (1 << kExponentBits) - 1;
      const int32_t value = power ? rest | 1 << kFraction : rest;
      significand[k] = bits[k] & 0x8000 ? -value : value;
      exponent[k] = value ? (power ? power : 1) - kBias : kNothing;
    }
    finite = !special;
  }
};

template <Element16 element>
double value_of(uint16_t bits) {
  return element == Element16::f16 ? double(__half2float(__ushort_as_half(bits)))
                                   : double(__bfloat162float(__ushort_as_bfloat16(bits)));
}

// sum · 2^exponent, cut off towards zero.
float truncated(int64_t sum, int exponent) {
  uint64_t magnitude = uint64_t(sum < 0 ? -sum : sum);
  if (magnitude == 0) return 0.0f;
  const int surplus = std::max(int(std::bit_width(magnitude)) - 24, -149 - exponent);
  if (surplus > 0) magnitude = surplus < 64 ? magnitude >> surplus << surplus : 0;
  return float(std::ldexp(sum < 0 ? -double(magnitude) : double(magnitude), exponent));
}

// c + the products [begin, begin + count).
template <Element16 element>
float step(const Decoded<element>& a, const Decoded<element>& b, int begin, int count, float c, int bits) {
  const uint32_t bits_c = std::bit_cast<uint32_t>(c);
  const int power_c = int(bits_c >> 23 & 0xFF);
  const int64_t magnitude_c = (bits_c & 0x7FFFFF) | (power_c ? 1 << 23 : 0);
  const int exponent_c = magnitude_c ? (power_c ? power_c : 1) - 127 : kNothing;
  int most = exponent_c;
  int32_t product[16], exponent[16];
  for (int k = 0; k < count; ++k) {
    product[k] = a.significand[begin + k] * b.significand[begin + k];
    exponent[k] = a.exponent[begin + k] + b.exponent[begin + k];
    most = std::max(most, exponent[k]);
  }
  const auto aligned = [&](int64_t significand, int fraction, int exponent) {  // in units of 2^(most − bits)
    const int shift = std::min(most - exponent, 63);
    const int64_t magnitude = (significand < 0 ? -significand : significand) << (bits - fraction) >> shift;
    return significand < 0 ? -magnitude : magnitude;
  };
  int64_t sum = aligned(c < 0 ? -magnitude_c : magnitude_c, 23, exponent_c);
  for (int k = 0; k < count; ++k) sum += aligned(product[k], 2 * Decoded<element>::kFraction, exponent[k]);
  return truncated(sum, most - bits);
}

}  // namespace

template <Element16 element>
float tensor_core_sum(const uint16_t (&a)[16], const uint16_t (&b)[16], float c) {
  const Decoded<element> x(a), y(b);
  if (!x.finite || !y.finite || !std::isfinite(c)) {
    double sum = c;
    for (int k = 0; k < 16; ++k) sum += value_of<element>(a[k]) * value_of<element>(b[k]);
    return std::isinf(sum) ? float(sum) : std::bit_cast<float>(0x7FFFFFFFu);  // the NaN that the cards give
  }
  const int bits = tensor_core_bits();
  if (bits == 25) return step(x, y, 0, 16, c, bits);
  return step(x, y, 8, 8, step(x, y, 0, 8, c, bits), bits);
}

template float tensor_core_sum<Element16::f16>(const uint16_t (&)[16], const uint16_t (&)[16], float);
template float tensor_core_sum<Element16::bf16>(const uint16_t (&)[16], const uint16_t (&)[16], float);

}  // namespace emulator
