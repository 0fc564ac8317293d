// Products of float matrices by AMX, whose tiles multiply bfloat16 numbers and add them up in float.
//
// A float of 24 bits is the sum of three bfloat16 numbers of 8, high + middle + low, each the rest rounded to nearest:
// exactly, unless a part is smaller than 2^-126, which AMX takes for zero. Of the nine products of the parts of two
// numbers three are less than 2^-24 of the whole and are left out. The five small ones are added up over the whole
// reduction before the products of high parts: every addition rounds to the size of the sum.
//
// A word holds the same part of two numbers that lie 16 apart in the reduction, and 16 words make a row of a tile: so
// no element has to move across lanes.
#pragma once

#include <numeric>

#include "tile.h"

namespace desc_ext::cpu::DESC_EXT_ISA {

inline constexpr int64_t kTileRows = 16, kWords = 16;  // of a tile, and of one of its rows
inline constexpr int64_t kTileWords = kTileRows * kWords;
inline constexpr int64_t kPiece = 2 * kWords;  // of the reduction that one tile covers
inline constexpr int kWhole = 3;  // a fourth part: the high one with infinities and NaN, which are 0 in the others

static inline int64_t pieces_of(int64_t length) { return (length + kPiece - 1) / kPiece; }

// How columns, in groups of `group` (one basis each), are cut into tiles of equal numbers of rows. Groups of more
// columns than a tile has rows begin a tile each.
struct TileCut {
  int64_t columns, group, rows, of_group;  // of_group: tiles of a group that begins one, else 0

  TileCut(int64_t all, int64_t in_group) : columns(all), group(in_group), of_group(0) {
    if (group > kTileRows) of_group = (group + kTileRows - 1) / kTileRows;
    const int64_t shared = of_group ? group : columns, tiles = (shared + kTileRows - 1) / kTileRows;
    rows = (shared + tiles - 1) / tiles;
  }

  int64_t tile(int64_t column) const {
    return of_group ? column / group * of_group + column % group / rows : column / rows;
  }
  int64_t row(int64_t column) const { return (of_group ? column % group : column) % rows; }
  int64_t tiles() const { return tile(columns - 1) + 1; }

  // Columns of the two tiles, or the one, that are computed at once from a column that begins a tile.
  int64_t width(int64_t column, int64_t end) const {
    return std::min(2 * rows, (of_group ? column / group * group + group : end) - column);
  }

  // Groups after which a tile ends with a group.
  int64_t groups_together() const { return of_group ? 1 : rows / std::gcd(rows, group); }
};

// ---- parts ---------------------------------------------------------------------------------------------------------

using Bits = Vector<uint32_t>;

// The nearest bfloat16 number, as a float; halves away from zero. Infinite for the largest floats.
static inline Vector<float> rounded(Vector<float> x) { return (Vector<float>)(((Bits)x + 0x8000u) & 0xffff0000u); }

static inline Bits word(Vector<float> even, Vector<float> odd) {
  return ((Bits)even >> 16) | ((Bits)odd & 0xffff0000u);
}

// One of the parts of a float. Without `careful` it must be finite and not round to infinity: else `check` becomes NaN.
template <bool careful>
struct Parts {
  Vector<float> high, middle, low, whole;

  explicit Parts(Vector<float> x) {
    whole = x;
    if constexpr (careful) {
      const Bits magnitude = (Bits)x & 0x7fffffffu, infinite = (Bits)(magnitude >= 0x7f800000u);
      const Bits huge = (Bits)(magnitude >= 0x7f7f8000u);                // truncated, not rounded to infinity
      const Bits quiet = (Bits)(magnitude > 0x7f800000u) & 0x00400000u;  // bits that truncation leaves of a NaN
      x = (Vector<float>)((Bits)x & ~infinite);
      high = (Vector<float>)(((Bits)x & 0xffff0000u & huge) | ((Bits)rounded(x) & ~huge));
      whole = (Vector<float>)((((Bits)whole | quiet) & infinite) | (Bits)high);
    } else {
      high = rounded(x);
    }
    const Vector<float> rest = x - high;
    middle = rounded(rest);
    low = rest - middle;
  }
};

// Writes the words of two vectors, part after part `step` words apart. `check` stays 0 as long as all is in range.
template <int parts, bool careful>
static inline void store_parts(Vector<float> even, Vector<float> odd, uint32_t* out, int64_t step,
                               Vector<float>& check) {
  const Parts<careful> x(even), y(odd);
  store(out, word(x.high, y.high));
  if constexpr (parts == 3) {
    store(out + step, word(x.middle, y.middle));
    store(out + 2 * step, word(x.low, y.low));
  }
  if constexpr (careful)
    store(out + kWhole * step, word(x.whole, y.whole));
  else
    check += (even - x.high) * 0.0f + (odd - y.high) * 0.0f;
}

static inline bool all_zero(Vector<float> check) {
  return _mm512_cmp_ps_mask((__m512)check, _mm512_setzero_ps(), _CMP_NEQ_UQ) == 0;
}

// Lanes [columns][kStrip] to the words of the tiles [part][half of the strip][piece][16 rows], zero behind the last
// column.
template <int parts, bool careful>
static inline bool split_lanes(const float* lanes, int64_t columns, uint32_t* out) {
  constexpr int R = kStrip<float>;
  const int64_t pieces = pieces_of(columns), step = 2 * pieces * kTileWords;
  Vector<float> check{};
  for (int half = 0; half < 2; ++half) {
    const float* in = lanes + half * kLanes<float>;
    for (int64_t piece = 0; piece < pieces; ++piece, in += kPiece * R)
      for (int64_t i = 0; i < kWords; ++i, out += kWords) {
        const int64_t j = piece * kPiece + i;
        const Vector<float> even = j < columns ? load(in + i * R) : Vector<float>{};
        const Vector<float> odd = j + kWords < columns ? load(in + (i + kWords) * R) : Vector<float>{};
        store_parts<parts, careful>(even, odd, out, step, check);
      }
  }
  return all_zero(check);
}

// Rows [kStrip, stride] to the words of the tiles [part][16 columns][16 rows], whose reduction is over the rows.
template <int parts, bool careful>
static inline bool split_rows(const float* rows, int64_t stride, uint32_t* out) {
  Vector<float> check{};
  for (int64_t j = 0; j < stride; j += kWords)
    for (int64_t r = 0; r < kWords; ++r, out += kWords)
      store_parts<parts, careful>(load(rows + r * stride + j), load(rows + (r + kWords) * stride + j), out,
                                  stride * kWords, check);
  return all_zero(check);
}

// Lanes [columns][kStrip] to rows of words [part][column], parts `step` words apart: the reduction is over the lanes.
template <bool careful>
static inline bool split_columns(const float* lanes, int64_t columns, uint32_t* out, int64_t step) {
  constexpr int L = kLanes<float>, R = kStrip<float>;
  Vector<float> check{};
  for (int64_t c = 0; c < columns; ++c)
    store_parts<3, careful>(load(lanes + c * R), load(lanes + c * R + L), out + c * kWords, step, check);
  return all_zero(check);
}

// ---- tiles ---------------------------------------------------------------------------------------------------------

// Tiles as the products below take them: 0 to 3 are sums, 4 and 5 of the first factor, 6 and 7 of the second. They are
// state of the thread, which other libraries set too, so they are set for each use and given back.
class TilesInUse {
 public:
  explicit TilesInUse(int64_t rows) {
    alignas(64) struct {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } shape;
    for (int tile = 0; tile < 8; ++tile) {
      shape.row_bytes[tile] = 4 * kWords;
      shape.rows[tile] = uint8_t(tile < 6 ? rows : kTileRows);
    }
    _tile_loadconfig(&shape);
  }
  ~TilesInUse() { _tile_release(); }
  TilesInUse(const TilesInUse&) = delete;
};

// Tiles of a factor in memory; steps are in words.
struct Factor {
  const uint32_t* data;
  int64_t part, piece, tile;
  int parts, whole;  // parts there are; which one stands for the high part in the product of high parts

  const uint32_t* at(int64_t p, int which) const { return data + p * piece + which * part; }
};

// Memory that is wanted next, of which some lines are fetched with every piece of a product.
struct Ahead {
  const char *at = nullptr, *end = nullptr;
  int lines = 0;
};

static inline void fetch(Ahead* ahead) {
  for (int i = 0; ahead && i < ahead->lines && ahead->at < ahead->end; ++i, ahead->at += 64)
    _mm_prefetch(ahead->at, _MM_HINT_T1);
}

// The compilers do not know that the instructions for tiles read and write memory.
static inline void memory_barrier() { __asm__ volatile("" ::: "memory"); }

// out[rows of a][16 words of b] for two tiles of a and of b, or one.
template <bool two_a, bool two_b>
struct TileProduct {
  static inline void load_a(const Factor& a, int64_t piece, int part) {
    _tile_loadd(4, a.at(piece, part), 4 * kWords);
    if constexpr (two_a) _tile_loadd(5, a.at(piece, part) + a.tile, 4 * kWords);
  }

  static inline void load_b(const Factor& b, int64_t piece, int part) {
    _tile_loadd(6, b.at(piece, part), 4 * kWords);
    if constexpr (two_b) _tile_loadd(7, b.at(piece, part) + b.tile, 4 * kWords);
  }

  static inline void multiply() {
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (two_b) _tile_dpbf16ps(1, 4, 7);
    if constexpr (two_a) _tile_dpbf16ps(2, 5, 6);
    if constexpr (two_a && two_b) _tile_dpbf16ps(3, 5, 7);
  }

  // Of one piece: low·high, middle·high, middle·middle, high·middle, high·low, as far as these parts are there.
  static inline void small(const Factor& a, const Factor& b, int64_t piece) {
    if (a.parts == 3) {
      load_b(b, piece, 0);
      load_a(a, piece, 2), multiply();
      load_a(a, piece, 1), multiply();
    }
    if (b.parts == 1) return;
    load_b(b, piece, 1);
    if (a.parts == 3) multiply();
    load_a(a, piece, 0), multiply();
    load_b(b, piece, 2), multiply();
  }

  static void run(const Factor& a, const Factor& b, int64_t pieces, int64_t rows, float* out, int64_t stride,
                  Ahead* ahead) {
    memory_barrier();
    _tile_zero(0);
    if constexpr (two_b) _tile_zero(1);
    if constexpr (two_a) _tile_zero(2);
    if constexpr (two_a && two_b) _tile_zero(3);
    if (a.parts > 1 || b.parts > 1)
      for (int64_t piece = 0; piece < pieces; ++piece) small(a, b, piece), fetch(ahead);
    for (int64_t piece = 0; piece < pieces; ++piece)
      load_a(a, piece, a.whole), load_b(b, piece, b.whole), multiply(), fetch(ahead);
    _tile_stored(0, out, 4 * stride);
    if constexpr (two_b) _tile_stored(1, out + kWords, 4 * stride);
    if constexpr (two_a) _tile_stored(2, out + rows * stride, 4 * stride);
    if constexpr (two_a && two_b) _tile_stored(3, out + rows * stride + kWords, 4 * stride);
    memory_barrier();
  }
};

static inline void tile_product(const Factor& a, const Factor& b, bool two_a, bool two_b, int64_t pieces, int64_t rows,
                                float* out, int64_t stride, Ahead* ahead = nullptr) {
  const auto run = two_a   ? two_b ? TileProduct<true, true>::run : TileProduct<true, false>::run
                   : two_b ? TileProduct<false, true>::run
                           : TileProduct<false, false>::run;
  run(a, b, pieces, rows, out, stride, ahead);
}

}  // namespace desc_ext::cpu::DESC_EXT_ISA
