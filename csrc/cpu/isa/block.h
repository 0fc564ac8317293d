// A block of rows of z in both layouts, and [n, K] arrays by tiles.
#pragma once

#include "tile.h"

namespace desc_ext::cpu::DESC_EXT_ISA {

template <class T>
struct Block {
  static constexpr int L = kLanes<T>, R = kStrip<T>;
  int64_t p, stride, capacity;
  int64_t begin = 0, count = 0, strips = 0;  // positions [begin, begin + count), in `strips` strips, zero-padded
  const int64_t* index;
  Buffer<T> rows, lanes;  // [capacity, stride] and, for each strip, [p][R]

  explicit Block(const Rows& z, int64_t row_stride, int64_t strips_at_most = 256 / R)
      : p(z.columns), stride(row_stride), capacity(std::min(block_strips<T>(row_stride), strips_at_most) * R),
        index(z.index), rows(capacity * row_stride), lanes(capacity * z.columns) {}

  void load(const Rows& z, int64_t from, int64_t to) {
    begin = from;
    count = std::min(to - from, capacity);
    strips = (count + R - 1) / R;
    load_rows<T>(z, begin, count, stride, rows);
    std::fill(rows + count * stride, rows + strips * R * stride, T(0));
    for (int64_t s = 0; s < strips; ++s) rows_to_lanes<T>(rows + s * R * stride, stride, p, strip(s));
  }

  T* strip(int64_t s) const { return lanes + s * p * R; }
  int64_t rows_in(int64_t s) const { return std::min<int64_t>(R, count - s * R); }
  int64_t row_index(int64_t i) const { return index ? index[begin + i] : begin + i; }

  // ‖z_i‖² of every row of the block, padding included.
  void squared_norms(T* out) const {
    for (int64_t i = 0; i < strips * R; ++i) {
      Vector<T> sum{};
      for (int64_t j = 0; j < stride; j += L) {
        const Vector<T> x = vec_load(rows + i * stride + j);
        sum += x * x;
      }
      out[i] = lane_sum<T>(sum);
    }
  }

  // Columns [k, k + width) of the rows of strip s of an [n, K] array, as lanes [width][R]; zero past the last row.
  void load_columns(const T* array, int64_t K, int64_t s, int64_t k, int64_t width, T* scratch, T* out) const {
    const int64_t padded = (width + L - 1) / L * L, here = rows_in(s);
    for (int64_t r = 0; r < R; ++r) {
      T* row = scratch + r * padded;
      if (r < here) {
        const T* from = array + row_index(s * R + r) * K + k;
        std::copy(from, from + width, row);
        std::fill(row + width, row + padded, T(0));
      } else {
        std::fill(row, row + padded, T(0));
      }
    }
    rows_to_lanes<T>(scratch, padded, width, out);
  }

  // Lanes [width][R] to columns [k, k + width) of the rows of strip s of an [n, K] array (no index).
  void store_columns(const T* from, int64_t K, int64_t s, int64_t k, int64_t width, T* array) const {
    lanes_to_rows<T>(from, width, rows_in(s), array + (begin + s * R) * K + k, K);
  }

  // Lanes [p][R] of strip s to the rows of an array like z.
  void store_strip(const T* from, int64_t s, T* scratch, const MutableRows& out) const {
    lanes_to_rows<T>(from, p, rows_in(s), scratch, stride);
    for (int64_t r = 0; r < rows_in(s); ++r) store_row<T>(out, begin + s * R + r, scratch + r * stride);
  }

 private:
  static Vector<T> vec_load(const T* from) { return DESC_EXT_ISA::load<T>(from); }
};

}  // namespace desc_ext::cpu::DESC_EXT_ISA
