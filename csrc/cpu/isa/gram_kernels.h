// Gram matrices of rows, and rows times a symmetric matrix: segment_gram, the block-orthogonality penalty and their
// gradients. Operations: n·p² for a Gram matrix (its upper triangle), 2·n·p² for a product.
#pragma once

#include "block.h"

namespace desc_ext::cpu::DESC_EXT_ISA {

template <class T>
static void gram(const Rows& z, const T* weight, int64_t begin, int64_t end, int64_t stride, T* sums) {
  constexpr int R = kStrip<T>;
  const int64_t p = z.columns;
  Block<T> block(z, stride);
  for (; begin < end; begin += block.count) {
    block.load(z, begin, end);
    for (int64_t i = 0; weight && i < block.count; ++i) {
      const T factor = weight[block.row_index(i)];
      T* lanes = block.strip(i / R) + i % R;
      for (int64_t j = 0; j < p; ++j) lanes[j * R] *= factor;
    }
    outer_product<T>(block.lanes, p * R, p, block.rows, stride, block.strips, sums, [](int64_t c) { return c; });
  }
}

template <class T>
static void rows_times(const Rows& z, const T* weight, const T* panels, int64_t begin, int64_t end, MutableRows out,
                       T* dots) {
  constexpr int L = kLanes<T>, R = kStrip<T>;
  const int64_t p = z.columns, stride = (p + L - 1) / L * L;
  const PanelCut cut(p, p);
  Block<T> block(z, stride);
  Buffer<T> product(p * R), scratch(R * stride);
  for (; begin < end; begin += block.count) {
    block.load(z, begin, end);
    for (int64_t s = 0; s < block.strips; ++s) {
      const T* lanes = block.strip(s);
      T factor[R], dot[R] = {};
      for (int r = 0; r < R; ++r)
        factor[r] = weight && r < block.rows_in(s) ? weight[block.row_index(s * R + r)] : T(1);
      for (int64_t j = 0; j < p;) {
        const int64_t width = cut.width(j);
        panel_product<T>(lanes, panels + j * p, width, p, product + j * R, false);
        j += width;
      }
      for (int64_t j = 0; j < p; ++j)
        for (int r = 0; r < R; ++r) {
          dot[r] += product[j * R + r] * lanes[j * R + r];
          product[j * R + r] *= factor[r];
        }
      if (out.data) block.store_strip(product, s, scratch, out);
      for (int64_t r = 0; dots && r < block.rows_in(s); ++r) dots[block.row_index(s * R + r)] = dot[r];
    }
  }
}

}  // namespace desc_ext::cpu::DESC_EXT_ISA
