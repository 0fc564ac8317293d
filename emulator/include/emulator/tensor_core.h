// Tensor cores: the arithmetic of mma.m16n8k16 on 16-bit floating-point elements with float32 sums, and ldmatrix.
//
// Tensor cores do not round as IEEE 754 says. As MMA-Sim (arXiv:2511.10909) found by comparing bits on the cards: the
// products are exact; they and the addend are aligned to the largest of their exponents (a product's is the sum of its
// factors', whatever the carry of the significands) and cut off towards zero behind 24 fractional bits (Ampere, Ada) or
// 25 (Hopper, Blackwell); the sum of these is exact, and cut off towards zero to float32. 24 bits go with two steps of
// 8 products, the first one's result the addend of the second; 25 with one step of 16.
#pragma once

#include <cstdint>

#include "warp.h"

namespace emulator {

enum class Element16 { f16, bf16 };

// c + Σ a_k b_k as the tensor cores add it, k < 16.
template <Element16 element>
float tensor_core_sum(const uint16_t (&a)[16], const uint16_t (&b)[16], float c);

// out [16, 8] = a [16, 16] · b [16, 8] + c [16, 8], from and to the registers that the PTX document gives each lane:
// with g = lane / 4 and t = lane % 4, a at rows g, g + 8, g, g + 8 and columns 2t, 2t, 2t + 8, 2t + 8 (and the column
// behind each, in the upper half); b at rows 2t, 2t + 8 (and behind) of column g; c and out at (g, 2t), (g, 2t + 1),
// (g + 8, 2t), (g + 8, 2t + 1).
template <Element16 element>
void multiply_m16n8k16(float (&out)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4],
                       std::source_location where = std::source_location::current()) {
  struct Rows {
    uint32_t at[4];
  };
  struct Columns {
    uint32_t at[2];
  };
  const int group = this_thread().lane / 4, in_group = this_thread().lane % 4;
  const auto rows = exchange(0xFFFFFFFFu, Rows{{a[0], a[1], a[2], a[3]}}, where);
  const auto columns = exchange(0xFFFFFFFFu, Columns{{b[0], b[1]}}, where);
  uint16_t row[2][16], column[2][16];
  for (int pair = 0; pair < 8; ++pair)
    for (int i = 0; i < 2; ++i) {
      const uint32_t of_row = rows[size_t(group * 4 + pair % 4)].at[pair / 4 * 2 + i];
      const uint32_t of_column = columns[size_t((2 * in_group + i) * 4 + pair % 4)].at[pair / 4];
      row[i][2 * pair] = uint16_t(of_row), row[i][2 * pair + 1] = uint16_t(of_row >> 16);
      column[i][2 * pair] = uint16_t(of_column), column[i][2 * pair + 1] = uint16_t(of_column >> 16);
    }
  for (int i = 0; i < 4; ++i) out[i] = tensor_core_sum<element>(row[i / 2], column[i % 2], c[i]);
}

// ldmatrix.x4.b16: four 8×8 matrices of 16-bit elements; lane l gives the address, aligned to 16 bytes, of row l % 8 of
// matrix l / 8, and gets of each matrix the elements 2(l % 4) and the one behind of row l / 4, or, transposed, those of
// column l / 4. `Transposed` is ldmatrix.trans.
template <bool Transposed>
void load_matrices(uint32_t (&out)[4], const void* line, std::source_location where = std::source_location::current()) {
  if (reinterpret_cast<uintptr_t>(line) % 16 != 0) fail("ldmatrix: a row is not aligned to 16 bytes", where);
  const int lane = this_thread().lane;
  const auto lines = exchange(0xFFFFFFFFu, static_cast<const uint16_t*>(line), where);
  for (int matrix = 0; matrix < 4; ++matrix) {
    uint32_t halves[2];
    for (int i = 0; i < 2; ++i) {
      const int row = Transposed ? lane % 4 * 2 + i : lane / 4, column = Transposed ? lane / 4 : lane % 4 * 2 + i;
      halves[i] = lines[size_t(matrix * 8 + row)][column];
    }
    out[matrix] = halves[0] | halves[1] << 16;
  }
}

}  // namespace emulator
