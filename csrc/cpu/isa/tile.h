// The register tiles that every kernel is made of.
//
// A strip is kStrip rows (two vectors, one row a lane). `lanes` layout [columns][kStrip] keeps one column of a strip
// together, so a reduction over columns is a plain multiply-add and nothing is summed across lanes.
//   panel_product   out[c][strip] (+)= Σ_j in[j][strip] · panel[j][c]        coefficients, gradients of rows
//   outer_product   sum[c][j..]   +=  Σ_r lanes[c][r] · rows[r][j..]          gradients of bases, Gram matrices
// Both hold 2 × kTileColumns accumulators in registers over the whole reduction: per step 2 loads and one broadcast
// for every two multiply-adds.
#pragma once

#include <algorithm>
#include <memory>
#include <numeric>
#include <type_traits>
#include <utility>

#include "../kernels.h"
#include "simd.h"

namespace desc_ext::cpu::DESC_EXT_ISA {

struct Free {
  void operator()(void* pointer) const { give_scratch(pointer); }
};

// Scratch. The twin of Array in ../operator.h: a class that both sides shared would be compiled for this instruction
// set and could be kept for all.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t size)
      : data_(static_cast<T*>(take_scratch(size_t(std::max<int64_t>(size, 1)) * sizeof(T)))) {}
  operator T*() const { return data_.get(); }

 private:
  std::unique_ptr<T, Free> data_;
};

// ---- how columns are cut into panels -------------------------------------------------------------------------

// Columns come in groups of `group` (one basis each). Whole groups share a panel where these fill enough of the
// register tile: kFull columns keep the multiply-adds busy. Small groups that do not are cut wherever a full panel
// ends, a single or wide group into nearly equal panels.
struct PanelCut {
  static constexpr int64_t kFull = kTileColumns >= 12 ? 8 : kTileColumns - 1;
  int64_t columns, group, wide;  // wide: of a panel; 0 for nearly equal ones

  PanelCut(int64_t all, int64_t of_group) : columns(all), group(of_group), wide(0) {
    if (group == 0) return;
    const int64_t whole = kTileColumns / group * group;
    if (whole >= kFull)
      wide = whole;
    else if (group < columns && group <= 2 * kTileColumns)
      wide = kTileColumns;
  }

  // Of the panel that begins at column `begin`.
  int64_t width(int64_t begin) const {
    if (wide) return std::min(wide, columns - begin);
    const int64_t pieces = (group + kTileColumns - 1) / kTileColumns, in_group = begin % group;
    const int64_t longer = group % pieces, base = group / pieces;  // the first `longer` pieces have one more
    return in_group < longer * (base + 1) ? base + 1 : base;
  }

  // Where the panel begins that holds a column, which itself begins a panel or, where `wide` is set, may be any.
  int64_t start(int64_t column) const { return wide ? column / wide * wide : column; }

  // Groups after which a panel ends with a group.
  int64_t groups_together() const { return wide ? wide / std::gcd(wide, group) : 1; }
};

// Panel at column c: [length][width] at out + c · length, so a set takes columns · length elements.
template <class T>
static void pack_panels(const T* source, int64_t stride, int64_t columns, int64_t length, int64_t group, T* out) {
  const PanelCut cut(columns, group);
  for (int64_t c = 0; c < columns;) {
    const int64_t width = cut.width(c);
    T* panel = out + c * length;
    for (int64_t j = 0; j < length; ++j)
      for (int64_t x = 0; x < width; ++x) panel[j * width + x] = source[(c + x) * stride + j];
    c += width;
  }
}

template <class T>
static void pack_transposed(const T* source, int64_t stride, const T* scale, int64_t columns, int64_t length, T* out) {
  const PanelCut cut(columns, columns);
  for (int64_t c = 0; c < columns;) {
    const int64_t width = cut.width(c);
    T* panel = out + c * length;
    for (int64_t j = 0; j < length; ++j)
      for (int64_t x = 0; x < width; x += kLanes<T>) {
        const int64_t here = std::min<int64_t>(kLanes<T>, width - x);
        const Vector<T> row = load_first(source + j * stride + c + x, here);
        store_first(panel + j * width + x, scale ? Vector<T>(row * scale[j]) : row, here);
      }
    c += width;
  }
}

// ---- the two register tiles ------------------------------------------------------------------------------------

template <class T, int C, bool difference>
static void panel_tile(const T* in, int64_t in_stride, const T* panel, int64_t panel_stride, int64_t length, T* out,
                       bool add) {
  constexpr int L = kLanes<T>;
  Vector<T> sum[C][2];
  DESC_EXT_UNROLL
  for (int c = 0; c < C; ++c) sum[c][0] = sum[c][1] = Vector<T>{};
  for (int64_t j = 0; j < length; ++j) {
    const Vector<T> low = load(in), high = load(in + L);
    DESC_EXT_UNROLL
    for (int c = 0; c < C; ++c) {
      const T x = panel[c];
      if constexpr (difference) {
        const Vector<T> a = low - x, b = high - x;
        sum[c][0] += a * a;
        sum[c][1] += b * b;
      } else {
        sum[c][0] += low * x;
        sum[c][1] += high * x;
      }
    }
    in += in_stride;
    panel += panel_stride;
  }
  DESC_EXT_UNROLL
  for (int c = 0; c < C; ++c) {
    T* to = out + c * 2 * L;
    if (add) {
      sum[c][0] += load(to);
      sum[c][1] += load(to + L);
    }
    store(to, sum[c][0]);
    store(to + L, sum[c][1]);
  }
}

template <class T, int C>
static void outer_tile(const T* lanes, int64_t lanes_stride, const T* rows, int64_t stride, int64_t strips, T* sums,
                       int64_t sums_stride, bool wide, bool add) {
  constexpr int L = kLanes<T>, R = kStrip<T>;
  Vector<T> sum[C][2];
  DESC_EXT_UNROLL
  for (int c = 0; c < C; ++c) sum[c][0] = sum[c][1] = Vector<T>{};
  if (wide) {
    for (int64_t s = 0; s < strips; ++s, lanes += lanes_stride)
      for (int r = 0; r < R; ++r, rows += stride) {
        const Vector<T> low = load(rows), high = load(rows + L);
        DESC_EXT_UNROLL
        for (int c = 0; c < C; ++c) {
          const T x = lanes[c * R + r];
          sum[c][0] += low * x;
          sum[c][1] += high * x;
        }
      }
  } else {
    for (int64_t s = 0; s < strips; ++s, lanes += lanes_stride)
      for (int r = 0; r < R; ++r, rows += stride) {
        const Vector<T> low = load(rows);
        DESC_EXT_UNROLL
        for (int c = 0; c < C; ++c) sum[c][0] += low * lanes[c * R + r];
      }
  }
  DESC_EXT_UNROLL
  for (int c = 0; c < C; ++c) {
    T* to = sums + c * sums_stride;
    if (add) {
      sum[c][0] += load(to);
      if (wide) sum[c][1] += load(to + L);
    }
    store(to, sum[c][0]);
    if (wide) store(to + L, sum[c][1]);
  }
}

template <class T, bool difference, int... C>
static constexpr auto panel_tiles(std::integer_sequence<int, C...>) {
  using Tile = void (*)(const T*, int64_t, const T*, int64_t, int64_t, T*, bool);
  struct Tiles {
    Tile at[sizeof...(C)];
  };
  return Tiles{{panel_tile<T, C + 1, difference>...}};
}

template <class T, int... C>
static constexpr auto outer_tiles(std::integer_sequence<int, C...>) {
  using Tile = void (*)(const T*, int64_t, const T*, int64_t, int64_t, T*, int64_t, bool, bool);
  struct Tiles {
    Tile at[sizeof...(C)];
  };
  return Tiles{{outer_tile<T, C + 1>...}};
}

// Long reductions are cut so that a piece of the panel stays in the first-level cache and roundings do not pile up:
// the sum of sums of n/m terms is off by √(n/m) roundings rather than √n. Squares, all positive, pile up faster.
template <bool difference>
inline constexpr int64_t kReductionPiece = difference ? 32 : 128;

// out[c][strip] (+)= Σ_j in[j][strip] panel[j][c] for one panel of `width` columns; squared differences
// (in − panel)² are summed instead where `difference` is set.
template <class T, bool difference = false>
static inline void panel_product(const T* in, const T* panel, int64_t width, int64_t length, T* out, bool add) {
  static constexpr auto tiles = panel_tiles<T, difference>(std::make_integer_sequence<int, kTileColumns>());
  constexpr int64_t kPiece = kReductionPiece<difference>, R = kStrip<T>;
  for (int64_t j = 0; j < length; j += kPiece)
    tiles.at[width - 1](in + j * R, R, panel + j * width, width, std::min(kPiece, length - j), out, add || j > 0);
}

// sums[c][0..stride) (+)= Σ over strips and rows of lanes[c][row] · rows[row][0..stride), columns [from, columns), from
// the vector that holds column first(c) of the panel on (to skip what symmetry gives).
template <class T, class First>
static inline void outer_product(const T* lanes, int64_t lanes_stride, int64_t columns, const T* rows, int64_t stride,
                                 int64_t strips, T* sums, First first, bool add = true) {
  static constexpr auto tiles = outer_tiles<T>(std::make_integer_sequence<int, kTileColumns>());
  constexpr int L = kLanes<T>;
  const int64_t pieces = (columns + kTileColumns - 1) / kTileColumns;
  for (int64_t piece = 0; piece < pieces; ++piece) {
    const int64_t c = columns * piece / pieces, width = columns * (piece + 1) / pieces - c;
    for (int64_t j = first(c) / L * L; j < stride; j += 2 * L)
      tiles.at[width - 1](lanes + c * kStrip<T>, lanes_stride, rows + j, stride, strips, sums + c * stride + j, stride,
                          j + L < stride, add);
  }
}

// ---- between rows in memory and tiles --------------------------------------------------------------------------

template <class T>
static inline void load_row(const Rows& rows, int64_t position, T* out) {
  const int64_t offset = (rows.index ? rows.index[position] : position) * rows.columns, p = rows.columns;
  switch (rows.storage) {
    case Storage::f32: {
      const float* x = static_cast<const float*>(rows.data) + offset;
      for (int64_t j = 0; j < p; ++j) out[j] = T(x[j]);
      break;
    }
    case Storage::f64: {
      const double* x = static_cast<const double*>(rows.data) + offset;
      for (int64_t j = 0; j < p; ++j) out[j] = T(x[j]);
      break;
    }
    case Storage::f16: {
      const uint16_t* x = static_cast<const uint16_t*>(rows.data) + offset;
      int64_t j = 0;
      if constexpr (sizeof(T) == 4)
        for (; j + kLanes<T> <= p; j += kLanes<T>) store(out + j, load_float16(x + j));
      for (; j < p; ++j) out[j] = T(float16_to_float(x[j]));
      break;
    }
    case Storage::bf16: {
      const uint16_t* x = static_cast<const uint16_t*>(rows.data) + offset;
      for (int64_t j = 0; j < p; ++j) out[j] = T(bfloat16_to_float(x[j]));
      break;
    }
  }
}

template <class T>
static void store_row(const MutableRows& rows, int64_t position, const T* in) {
  const int64_t offset = (rows.index ? rows.index[position] : position) * rows.columns, p = rows.columns;
  switch (rows.storage) {
    case Storage::f32: {
      float* x = static_cast<float*>(rows.data) + offset;
      for (int64_t j = 0; j < p; ++j) x[j] = float(in[j]);
      break;
    }
    case Storage::f64: {
      double* x = static_cast<double*>(rows.data) + offset;
      for (int64_t j = 0; j < p; ++j) x[j] = double(in[j]);
      break;
    }
    case Storage::f16: {
      uint16_t* x = static_cast<uint16_t*>(rows.data) + offset;
      int64_t j = 0;
      if constexpr (sizeof(T) == 4)
        for (; j + kLanes<T> <= p; j += kLanes<T>) store_float16(x + j, load(in + j));
      for (; j < p; ++j) x[j] = float_to_float16(float(in[j]));
      break;
    }
    case Storage::bf16: {
      uint16_t* x = static_cast<uint16_t*>(rows.data) + offset;
      for (int64_t j = 0; j < p; ++j) x[j] = float_to_bfloat16(float(in[j]));
      break;
    }
  }
}

template <class T>
static void load_rows(const Rows& rows, int64_t begin, int64_t count, int64_t stride, T* out) {
  for (int64_t i = 0; i < count; ++i) {
    load_row(rows, begin + i, out + i * stride);
    std::fill(out + i * stride + rows.columns, out + (i + 1) * stride, T(0));
  }
}

// rows[kStrip, stride] to lanes [columns][kStrip]; stride is a multiple of the vector length and the rows are padded
// to it, so whole squares can be moved. `columns` may end inside a square.
template <class T>
static inline void rows_to_lanes(const T* rows, int64_t stride, int64_t columns, T* lanes) {
  constexpr int L = kLanes<T>, R = kStrip<T>;
  for (int64_t j = 0; j < columns; j += L)
    for (int half = 0; half < 2; ++half) {
      Vector<T> square[L];
      DESC_EXT_UNROLL
      for (int r = 0; r < L; ++r) square[r] = load(rows + (half * L + r) * stride + j);
      transpose_square<T>(square);
      const int64_t width = std::min<int64_t>(L, columns - j);
      if (width == L) {
        DESC_EXT_UNROLL
        for (int c = 0; c < L; ++c) store(lanes + (j + c) * R + half * L, square[c]);
      } else {
        for (int64_t c = 0; c < width; ++c) store(lanes + (j + c) * R + half * L, square[c]);
      }
    }
}

// lanes [columns][kStrip] to rows [count ≤ kStrip] of row stride `stride`; writes exactly `columns` of each.
template <class T>
static inline void lanes_to_rows(const T* lanes, int64_t columns, int64_t count, T* rows, int64_t stride) {
  constexpr int L = kLanes<T>, R = kStrip<T>;
  for (int64_t j = 0; j < columns; j += L)
    for (int half = 0; half < 2; ++half) {
      const int64_t width = std::min<int64_t>(L, columns - j), here = std::min<int64_t>(L, count - half * L);
      if (here <= 0) break;
      T* to = rows + half * L * stride + j;
      const T* from = lanes + j * R + half * L;
      if (width < L) {
        for (int64_t r = 0; r < here; ++r)
          for (int64_t c = 0; c < width; ++c) to[r * stride + c] = from[c * R + r];
        continue;
      }
      Vector<T> square[L];
      DESC_EXT_UNROLL
      for (int c = 0; c < L; ++c) square[c] = load(from + c * R);
      transpose_square<T>(square);
      for (int64_t r = 0; r < here; ++r) store(to + r * stride, square[r]);
    }
}

// Strips a block holds: its rows in both layouts stay in a second-level cache of 1 MiB, with room for coefficients.
template <class T>
static inline int64_t block_strips(int64_t stride) {
  const int64_t bytes = stride * kStrip<T> * int64_t(sizeof(T));
  return std::clamp<int64_t>((192 << 10) / bytes, 1, 256 / kStrip<T>);
}

}  // namespace desc_ext::cpu::DESC_EXT_ISA
