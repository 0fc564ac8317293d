// Products of strips with strips, and how a pair of blocks of rows is walked.
//
// A tile holds the values of the rows of one strip with those of another, [column][row lane]. All products are
//   out[c][lane] (+)= Σ_j a[j][lane] · b[j][c]
// by the register tile of panel_product: values (a, b strips: j runs over p), sums Σ_j value_ij x_j (a: values, b: rows
// x_j).
#pragma once

#include "../pair_kernels.h"
#include "tile.h"
#include "vector_math.h"

namespace desc_ext::cpu::DESC_EXT_ISA {

template <class T>
static inline void strip_product(const T* a, int64_t a_stride, const T* b, int64_t b_stride, int64_t columns,
                                 int64_t length, T* out, bool add) {
  static constexpr auto tiles = panel_tiles<T, false>(std::make_integer_sequence<int, kTileColumns>());
  constexpr int64_t kPiece = kReductionPiece<false>;
  const int64_t cuts = (columns + kTileColumns - 1) / kTileColumns;
  for (int64_t j = 0; j < length; j += kPiece)
    for (int64_t cut = 0; cut < cuts; ++cut) {
      const int64_t c = columns * cut / cuts, width = columns * (cut + 1) / cuts - c;
      tiles.at[width - 1](a + j * a_stride, a_stride, b + j * b_stride + c, b_stride, std::min(kPiece, length - j),
                          out + c * kStrip<T>, add || j > 0);
    }
}

// A tile of two strips: `length` steps of it, at most a kReductionPiece.
template <class T, bool difference = false>
static inline void tile_product(const T* a, const T* b, int64_t length, T* out, bool add) {
  static constexpr auto tiles = panel_tiles<T, difference>(std::make_integer_sequence<int, kTileColumns>());
  constexpr int64_t R = kStrip<T>, kCuts = (R + kTileColumns - 1) / kTileColumns;
  for (int64_t cut = 0; cut < kCuts; ++cut) {
    const int64_t c = R * cut / kCuts, width = R * (cut + 1) / kCuts - c;
    tiles.at[width - 1](a, R, b + c, R, length, out + c * R, add);
  }
}

// [R][R] transposed.
template <class T>
static inline void transpose_tile(const T* in, T* out) {
  constexpr int L = kLanes<T>, R = kStrip<T>;
  for (int a = 0; a < 2; ++a)
    for (int b = 0; b < 2; ++b) {
      Vector<T> square[L];
      DESC_EXT_UNROLL
      for (int i = 0; i < L; ++i) square[i] = load(in + (a * L + i) * R + b * L);
      transpose_square<T>(square);
      DESC_EXT_UNROLL
      for (int i = 0; i < L; ++i) store(out + (b * L + i) * R + a * L, square[i]);
    }
}

// A tile on the diagonal that holds each pair once, in the lanes behind its column, gets the other order: its mirror
// image.
template <class T>
static inline void mirror_tile(T* tile) {
  constexpr int R = kStrip<T>;
  for (int c = 0; c < R; ++c)
    for (int r = c + 1; r < R; ++r) tile[r * R + c] = tile[c * R + r];
}

// The strips of the two blocks of a pair; on the diagonal (`square`) only tiles first ≤ second are visited.
struct PairRange {
  int64_t first, first_end, second, second_end;
  bool square;

  template <class T>
  static PairRange of(const BlockPair& pair, const Strips<T>& a, const Strips<T>& b, bool symmetric) {
    const int64_t R = kStrip<T>, strips_a = (a.n + R - 1) / R, strips_b = (b.n + R - 1) / R;
    return {pair.first * pair.strips, std::min(strips_a, (pair.first + 1) * pair.strips), pair.second * pair.strips,
            std::min(strips_b, (pair.second + 1) * pair.strips), symmetric && pair.first == pair.second};
  }
  int64_t rows() const { return first_end - first; }
  int64_t columns() const { return second_end - second; }
  bool skips(int64_t s, int64_t t) const { return square && t < s; }
};

// Strips taken at a time: where rows are long, the second block does not stay in the second-level cache from one strip
// to the next, and all tiles of the pair are kept until the end.
static constexpr int64_t kDepth = 512;
static inline int64_t strips_at_a_time(const PairRange& range, int64_t p) { return p <= kDepth ? 1 : range.rows(); }

// Tiles [from, to) × second of the pair: values [to − from][columns][R][R]. A piece of the strip stays in the
// first-level cache while those of the second block pass by.
template <class T, bool difference = false>
static inline void pair_values(const PairRange& range, const Strips<T>& a, const Strips<T>& b, int64_t from, int64_t to,
                               T* values) {
  constexpr int64_t R = kStrip<T>, kPiece = kReductionPiece<difference>;
  const int64_t p = a.p;
  if (p == 0) std::fill(values, values + (to - from) * range.columns() * R * R, T(0));
  for (int64_t j = 0; j < p; j += kPiece)
    for (int64_t s = from; s < to; ++s)
      for (int64_t t = range.second; t < range.second_end; ++t) {
        if (range.skips(s, t)) continue;
        T* tile = values + ((s - from) * range.columns() + t - range.second) * R * R;
        tile_product<T, difference>(a.data + (s * p + j) * R, b.data + (t * p + j) * R, std::min(kPiece, p - j), tile,
                                    j > 0);
      }
}

// Runs visit(s, t, tile…) over the tiles of the pair; each of the arrays given by `compute` has [columns][R][R] a
// strip.
template <class T, class Compute, class Visit>
static inline void for_tiles(const PairRange& range, int64_t p, const Compute& compute, const Visit& visit) {
  const int64_t step = strips_at_a_time(range, p);
  for (int64_t from = range.first; from < range.first_end; from += step) {
    const int64_t to = std::min(range.first_end, from + step);
    compute(from, to);
    for (int64_t s = from; s < to; ++s)
      for (int64_t t = range.second; t < range.second_end; ++t)
        if (!range.skips(s, t)) visit(s, t, ((s - from) * range.columns() + t - range.second) * kStrip<T> * kStrip<T>);
  }
}

// Weights of all pairs of a block pair, in the order that either side's sums Σ weight_ij x_j read them.
template <class T>
class PairWeights {
 public:
  static constexpr int64_t R = kStrip<T>;

  // `both`: sums are wanted for the rows of the second block too.
  PairWeights(const PairRange& range, bool both)
      : range_(range), own_(range.rows() * range.columns() * R * R),
        other_(both && !range.square ? range.rows() * range.columns() * R * R : 0), both_(both && !range.square) {}

  // The tile of strips (s, t). On the diagonal of a square it must be whole.
  void set(int64_t s, int64_t t, const T* tile) {
    const int64_t row = s - range_.first, column = t - range_.second;
    std::copy(tile, tile + R * R, own_ + (row * range_.columns() + column) * R * R);
    if (range_.square && s != t) transpose_tile<T>(tile, own_ + (column * range_.columns() + row) * R * R);
    if (both_) transpose_tile<T>(tile, other_ + (column * range_.rows() + row) * R * R);
  }

  // first_sums[strip][p][R] += Σ weight x of the second block, and the other way round; null where not wanted.
  void add_products(const Strips<T>& first, const Strips<T>& second, T* first_sums, T* second_sums) const {
    if (first_sums) add(own_, range_.first, range_.first_end, range_.second, range_.columns(), second, first_sums);
    if (both_ && second_sums)
      add(other_, range_.second, range_.second_end, range_.first, range_.rows(), first, second_sums);
  }

 private:
  static void add(const T* weights, int64_t from, int64_t to, int64_t other, int64_t others, const Strips<T>& x,
                  T* sums) {
    const int64_t length = std::min(x.n - other * R, others * R), p = x.p;
    const PanelCut cut(p, p);
    for (int64_t s = from; s < to; ++s)
      for (int64_t c = 0; c < p;) {
        const int64_t width = cut.width(c);
        panel_product<T>(weights + (s - from) * others * R * R, x.panels + other * R * p + c * length, width, length,
                         sums + (s * p + c) * R, true);
        c += width;
      }
  }

  PairRange range_;
  Buffer<T> own_, other_;
  bool both_;
};

// Rows of a strip that are there, as lanes.
template <class T>
static inline Mask<T> lanes_below(int64_t count) {
  Mask<T> mask;
  for (int i = 0; i < kLanes<T>; ++i) mask[i] = i < count ? -1 : 0;
  return mask;
}

template <class T>
static inline int64_t rows_in_strip(int64_t n, int64_t s) {
  return std::min<int64_t>(kStrip<T>, n - s * kStrip<T>);
}

template <class T>
static void pack_strips(const Rows& z, const T* offset, const T* scale, int64_t n, int64_t begin, int64_t end,
                        T* strips, T* rows) {
  constexpr int64_t L = kLanes<T>, R = kStrip<T>;
  const int64_t p = z.columns, stride = (p + L - 1) / L * L;
  Buffer<T> block(R * stride);
  for (int64_t s = begin; s < end; ++s) {
    const int64_t count = rows_in_strip<T>(n, s);
    load_rows<T>(z, s * R, count, stride, block);
    std::fill(block + count * stride, block + R * stride, T(0));
    for (int64_t i = 0; i < count; ++i) {
      T* row = block + i * stride;
      for (int64_t j = 0; offset && j < p; ++j) row[j] -= offset[j];
      for (int64_t j = 0; scale && j < p; ++j) row[j] *= scale[s * R + i];
      if (rows) std::copy(row, row + p, rows + (s * R + i) * p);
    }
    rows_to_lanes<T>(block, stride, p, strips + s * p * R);
  }
}

template <class T>
static void unpack_strip(const T* lanes, int64_t p, int64_t count, T* rows) {
  lanes_to_rows<T>(lanes, p, count, rows, p);
}

}  // namespace desc_ext::cpu::DESC_EXT_ISA
