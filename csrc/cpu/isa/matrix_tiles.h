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

struct Parts {
  Vector<float> high, middle, low;

  explicit Parts(Vector<float> x) : high(rounded(x)) {
    const Vector<float> rest = x - high;
    middle = rounded(rest);
    low = rest - middle;
  }
};

// Numbers of rows and of coefficients must be less than the one limit, those of bases than the other: then no part and
// no product of parts is infinite, let alone Inf − Inf where the number itself is finite.
inline constexpr float kLimit = 0x1p60f, kBasisLimit = 0x1p40f;

// Adds up what overflows where a number is not less than `limit`, or is NaN.
static inline void check_range(Vector<float> x, float limit, Vector<float>& check) {
  check += x * (0x1p127f / limit * 2);
}

static inline bool all_finite(Vector<float> check) {
  return _mm512_cmp_ps_mask((__m512)(check * 0.0f), _mm512_setzero_ps(), _CMP_NEQ_UQ) == 0;
}

// Which rows of a strip, lanes [columns][kStrip], have a number that is not less than kLimit, or NaN: the bits of these
// rows. They are computed apart from the others.
static inline uint32_t rows_out_of_range(const float* lanes, int64_t columns) {
  constexpr int R = kStrip<float>;
  uint32_t rows = 0;
  for (int64_t i = 0; i < columns * R; ++i)
    if (!(lanes[i] < kLimit && lanes[i] > -kLimit)) rows |= uint32_t(1) << i % R;
  return rows;
}

// Zero in the lanes whose bits are set.
static inline Vector<float> without(Vector<float> x, uint32_t lanes) {
  return (Vector<float>)_mm512_maskz_mov_ps(__mmask16(~lanes), (__m512)x);
}

// Writes the words of two vectors, part after part `step` words apart.
template <int parts>
static inline void store_parts(Vector<float> even, Vector<float> odd, uint32_t* out, int64_t step) {
  const Parts x(even), y(odd);
  store(out, word(x.high, y.high));
  if constexpr (parts == 3) {
    store(out + step, word(x.middle, y.middle));
    store(out + 2 * step, word(x.low, y.low));
  }
}

// Lanes [columns][kStrip] to the words of the tiles [part][half of the strip][piece][16 rows], zero behind the last
// column, and where `some` is set in the rows `apart`. Returns whether all numbers are in range.
template <int parts, bool some>
static inline bool split_lanes(const float* lanes, int64_t columns, uint32_t apart, uint32_t* out) {
  constexpr int L = kLanes<float>, R = kStrip<float>;
  const int64_t pieces = pieces_of(columns), step = 2 * pieces * kTileWords;
  Vector<float> check{};
  for (int half = 0; half < 2; ++half) {
    const float* in = lanes + half * L;
    for (int64_t piece = 0; piece < pieces; ++piece, in += kPiece * R)
      for (int64_t i = 0; i < kWords; ++i, out += kWords) {
        const int64_t j = piece * kPiece + i;
        Vector<float> even = j < columns ? load(in + i * R) : Vector<float>{};
        Vector<float> odd = j + kWords < columns ? load(in + (i + kWords) * R) : Vector<float>{};
        if constexpr (some) even = without(even, apart >> half * L), odd = without(odd, apart >> half * L);
        check_range(even, kLimit, check), check_range(odd, kLimit, check);
        store_parts<parts>(even, odd, out, step);
      }
  }
  return all_finite(check);
}

// Rows [kStrip, stride] to the words of the tiles [part][16 columns][16 rows], whose reduction is over the rows; zero
// for those `apart`.
template <int parts>
static inline void split_rows(const float* rows, int64_t stride, uint32_t apart, uint32_t* out) {
  for (int64_t j = 0; j < stride; j += kWords)
    for (int64_t r = 0; r < kWords; ++r, out += kWords) {
      const Vector<float> even = load(rows + r * stride + j), odd = load(rows + (r + kWords) * stride + j);
      store_parts<parts>(apart >> r & 1 ? Vector<float>{} : even, apart >> (r + kWords) & 1 ? Vector<float>{} : odd,
                         out, stride * kWords);
    }
}

// Lanes [columns][kStrip] to rows of words [part][column], parts `step` words apart: the reduction is over the lanes.
template <bool some>
static inline bool split_columns(const float* lanes, int64_t columns, uint32_t apart, uint32_t* out, int64_t step) {
  constexpr int L = kLanes<float>, R = kStrip<float>;
  Vector<float> check{};
  for (int64_t c = 0; c < columns; ++c) {
    Vector<float> even = load(lanes + c * R), odd = load(lanes + c * R + L);
    if constexpr (some) even = without(even, apart), odd = without(odd, apart >> L);
    check_range(even, kLimit, check), check_range(odd, kLimit, check);
    store_parts<3>(even, odd, out + c * kWords, step);
  }
  return all_finite(check);
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
  int parts;  // there are

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

// Σ x · number over the numbers whose words lie in one row of the tiles of a factor; x [pieces · kPiece].
static inline float dot_words(const float* x, const Factor& a, int64_t pieces) {
  Vector<float> sum{};
  for (int64_t piece = 0; piece < pieces; ++piece) {
    Vector<float> even{}, odd{};
    for (int part = a.parts - 1; part >= 0; --part) {
      Bits words;
      std::memcpy(&words, a.at(piece, part), sizeof words);
      even += (Vector<float>)(words << 16);
      odd += (Vector<float>)(words & 0xffff0000u);
    }
    sum += load(x + piece * kPiece) * even;
    sum += load(x + piece * kPiece + kWords) * odd;
  }
  return lane_sum<float>(sum);
}

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
    for (int64_t piece = 0; piece < pieces; ++piece) load_a(a, piece, 0), load_b(b, piece, 0), multiply(), fetch(ahead);
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
