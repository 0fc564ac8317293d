// The three products of the projection family by AMX, for one block of rows: what PanelProducts does by register tiles.
#pragma once

#include <bit>

#include "basis_kernels.h"
#include "block.h"
#include "matrix_tiles.h"

namespace desc_ext::cpu::DESC_EXT_ISA {

// Where the parts of the bases lie: tiles [tile][piece][part][rows] with columns of S̃ as rows and the reduction over p,
// back tiles [chunk][tile][piece][part][rows] with the p columns of z as rows and the reduction over the columns of S̃
// of one chunk of bases.
struct TileLayout {
  int64_t K, p, d;
  int parts;
  TileCut cut, back;
  int64_t chunk;  // bases of one, of about 256 columns

  TileLayout(int64_t bases, int64_t features, int64_t dimension, int of_a_number)
      : K(bases), p(features), d(dimension), parts(of_a_number), cut(K * d, d), back(p, p) {
    const int64_t each = cut.groups_together();
    chunk = std::max<int64_t>(1, 256 / (each * d)) * each;
  }

  int64_t part() const { return cut.rows * kWords; }
  int64_t piece() const { return parts * part(); }
  int64_t tile() const { return pieces_of(p) * piece(); }
  int64_t size() const { return cut.tiles() * tile(); }

  int64_t back_part() const { return back.rows * kWords; }
  int64_t back_piece() const { return parts * back_part(); }
  int64_t back_tile() const { return pieces_of(std::min(chunk, K) * d) * back_piece(); }
  int64_t back_chunk() const { return back.tiles() * back_tile(); }
  int64_t back_size() const { return (K + chunk - 1) / chunk * back_chunk(); }
};

static int64_t tiles_size(int64_t K, int64_t p, int64_t d, int parts) { return TileLayout(K, p, d, parts).size(); }
static int64_t back_tiles_size(int64_t K, int64_t p, int64_t d, int parts) {
  return TileLayout(K, p, d, parts).back_size();
}

// ---- preparation -----------------------------------------------------------------------------------------------------

// Rows [j, j + 32) of [p, d], `width` columns of these, as the columns of two squares, zero behind the last row. Up to
// 8 columns fit in one square: then the rows from j + 16 on are columns 8 to 15 of the first.
template <bool whole>
static inline void load_squares(const float* rows, int64_t p, int64_t d, int64_t j, int64_t width,
                                Vector<float>* squares) {
  constexpr int L = kLanes<float>;
  if (width > L / 2) {
    for (int r = 0; r < 2 * L; r += L) {
      DESC_EXT_UNROLL
      for (int i = r; i < r + L; ++i)
        squares[i] = whole || j + i < p ? load_first(rows + (j + i) * d, width) : Vector<float>{};
      transpose_square<float>(squares + r);
    }
    return;
  }
  const __mmask16 upper = __mmask16(((1u << width) - 1) << L / 2);
  DESC_EXT_UNROLL
  for (int r = 0; r < L; ++r) {
    const float* row = rows + (j + r) * d;
    squares[r] = whole || j + r < p ? load_first(row, width) : Vector<float>{};
    if (whole || j + r + L < p)
      squares[r] = (Vector<float>)_mm512_mask_loadu_ps((__m512)squares[r], upper, row + L * d - L / 2);
  }
  transpose_square<float>(squares);
  DESC_EXT_UNROLL
  for (int c = 0; c < L / 2; ++c) squares[L + c] = squares[L / 2 + c];
}

// Basis k, rows [p, d], to its rows of the tiles. Returns whether all numbers are in range.
template <int parts>
static inline bool store_tiles(const float* rows, const TileLayout& layout, const BasisLayouts<float>& to, int64_t k) {
  constexpr int L = kLanes<float>;
  const TileCut& cut = layout.cut;
  const int64_t part = layout.part(), tile = layout.tile();
  Vector<float> check{};
  for (int64_t c = 0; c < to.d; c += L) {
    const int64_t width = std::min<int64_t>(L, to.d - c), column = k * to.d + c;
    uint32_t* begin[L];  // of the columns' rows
    int64_t at = cut.tile(column), row = cut.row(column), in_group = c;
    for (int64_t x = 0; x < width; ++x, ++row, ++in_group) {
      if (row == cut.rows || (cut.of_group && in_group == to.d)) ++at, row = 0;
      begin[x] = to.tiles + at * tile + row * kWords;
    }
    for (int64_t j = 0; j < to.p; j += kPiece) {
      Vector<float> squares[2 * L];
      j + kPiece <= to.p ? load_squares<true>(rows + c, to.p, to.d, j, width, squares)
                         : load_squares<false>(rows + c, to.p, to.d, j, width, squares);
      for (int64_t x = 0; x < width; ++x) {
        check_range(squares[x], kBasisLimit, check), check_range(squares[L + x], kBasisLimit, check);
        store_parts<parts>(squares[x], squares[L + x], begin[x] + j / kPiece * layout.piece(), part);
      }
    }
  }
  return all_finite(check);
}

// `here` columns of [p, d] times scale to the upper (odd) or the lower halves of their words of the back tiles. Returns
// finite numbers where all are in range.
template <int parts, bool odd>
static inline Vector<float> store_halves(const float* rows, const float* scale, int64_t d, int64_t here,
                                         const TileLayout& layout, uint32_t* out) {
  Vector<float> check{};
  const __mmask32 mask = __mmask32((uint64_t(1) << 2 * here) - 1) & (odd ? 0xaaaaaaaau : 0x55555555u);
  const int64_t step = layout.back_part(), tile_rows = layout.back.rows;
  const Vector<float> factor = load_first(scale, here);
  for (int64_t j = 0; j < layout.p; j += tile_rows, out += layout.back_tile()) {
    const int64_t end = std::min(tile_rows, layout.p - j);
    for (int64_t r = 0; r < end; ++r, rows += d) {
      const Vector<float> x = load_first(rows, here) * factor;
      const Parts of(x);
      check_range(x, kBasisLimit, check);
      const Vector<float> all[3] = {of.high, of.middle, of.low};
      DESC_EXT_UNROLL
      for (int part = 0; part < parts; ++part)
        _mm512_mask_storeu_epi16(out + part * step + r * kWords, mask,
                                 (__m512i)(odd ? (Bits)all[part] : (Bits)all[part] >> 16));
    }
  }
  return check;
}

// Basis k, rows [p, d] times scale, to its words of the back tiles: they stand in the upper or the lower halves of the
// words, by where in a piece of the chunk the columns lie. Behind the last column of a chunk its last basis writes
// zeros.
template <int parts>
static inline bool store_back_tiles(const float* rows, const TileLayout& layout, const BasisLayouts<float>& to,
                                    int64_t k) {
  Vector<float> check{};
  const int64_t d = to.d, chunk = k / layout.chunk, first = (k - chunk * layout.chunk) * d, end = first + d;
  uint32_t* const base = to.back_tiles + chunk * layout.back_chunk();
  for (int64_t c = first; c < end;) {
    const int64_t here = std::min(end - c, kWords - c % kWords);
    uint32_t* out = base + c / kPiece * layout.back_piece() + c % kWords;
    const auto store = c % kPiece >= kWords ? store_halves<parts, true> : store_halves<parts, false>;
    check += store(rows + (c - first), to.scale + k * d + (c - first), d, here, layout, out);
    c += here;
  }
  if ((k + 1 == to.K || (k + 1) % layout.chunk == 0) && end % kPiece) {
    const __mmask32 low = ~__mmask32((uint64_t(1) << 2 * std::min(end % kPiece, kWords)) - 1) & 0x55555555u;
    const __mmask32 high =
        ~__mmask32((uint64_t(1) << 2 * std::max<int64_t>(end % kPiece - kWords, 0)) - 1) & 0xaaaaaaaau;
    for (int64_t tile = 0; tile < layout.back.tiles(); ++tile)
      for (int64_t r = 0; r < parts * layout.back.rows; ++r)
        _mm512_mask_storeu_epi16(base + tile * layout.back_tile() + end / kPiece * layout.back_piece() + r * kWords,
                                 low | high, _mm512_setzero_si512());
  }
  return all_finite(check);
}

template <int parts>
struct Tiles {
  static void store(const float* rows, const BasisLayouts<float>& to, int64_t k, float* /*columns*/) {
    const TileLayout layout(to.K, to.p, to.d, parts);
    to.in_range[k] = store_tiles<parts>(rows, layout, to, k);
    if (to.back_tiles && !store_back_tiles<parts>(rows, layout, to, k)) to.in_range[k] = false;
  }
};

static void prepare_tiles(const BasisLayouts<float>& to, int64_t begin, int64_t end) {
  if (to.parts == 1)
    prepare_bases<float, Tiles<1>>(to, begin, end);
  else
    prepare_bases<float, Tiles<3>>(to, begin, end);
}

// ---- products --------------------------------------------------------------------------------------------------------

class TileProducts {
 public:
  static constexpr int R = kStrip<float>;
  static constexpr int64_t kColumns = 2 * kTileRows, kBehind = kTileRows;  // see PanelProducts
  // Parts of four tiles stay in the first-level cache through the sum for the bases, all of a block in the second-level
  // one.
  static constexpr int64_t kStrips = 4;

  TileProducts(const Bases<float>& bases, const Rows& z, const Block<float>& block, bool backward)
      : bases_(bases), z_(z), block_(block), layout_(bases.K, bases.p, bases.d, bases.parts),
        parts_(z.storage == Storage::bf16 ? 1 : 3), pieces_(pieces_of(bases.p)), strips_(block.capacity / R),
        chunk_columns_(std::min(layout_.chunk, bases.K) * bases.d), strip_words_(3 * 2 * pieces_ * kTileWords),
        row_words_(3 * bases.stride * kWords), coefficient_words_(3 * (chunk_columns_ + kTileRows) * kWords),
        lanes_(strips_ * strip_words_), apart_(strips_), rows_(backward ? strips_ * row_words_ : 0),
        coefficients_(backward ? std::max(strips_ * coefficient_words_, 3 * 2 * pieces_of(chunk_columns_) * kTileWords)
                               : 0),
        sums_(kColumns * R), row_(std::max(pieces_, pieces_of(chunk_columns_)) * kPiece) {}

  static int64_t together(const Bases<float>& bases) { return TileCut(bases.K * bases.d, bases.d).groups_together(); }

  static int64_t backward_chunk(const Bases<float>& bases) {
    return TileLayout(bases.K, bases.p, bases.d, bases.parts).chunk;
  }

  void load(int64_t end) {
    const int64_t row = bases_.p * (z_.storage == Storage::f32 ? 4 : 2), next = block_.begin + block_.count;
    const int64_t bytes = std::min(end - next, block_.capacity) * row;
    const int64_t products = block_.strips * std::max<int64_t>(1, bases_.K * bases_.d / (2 * layout_.cut.rows));
    ahead_.at = static_cast<const char*>(z_.data) + next * row;
    ahead_.end = ahead_.at + bytes;
    ahead_.lines = int(bytes / (64 * 2 * pieces_ * products)) + 1;
    for (int64_t s = 0; s < block_.strips; ++s) {
      uint32_t* to = lanes_ + s * strip_words_;
      apart_[s] = parts_ == 1 ? split_lanes_safely<1>(block_.strip(s), bases_.p, to)
                              : split_lanes_safely<3>(block_.strip(s), bases_.p, to);
    }
  }

  void load_rows() {
    for (int64_t s = 0; s < block_.strips; ++s) {
      const float* rows = block_.rows + s * R * block_.stride;
      uint32_t* to = rows_ + s * row_words_;
      parts_ == 1 ? split_rows<1>(rows, block_.stride, apart_[s], to)
                  : split_rows<3>(rows, block_.stride, apart_[s], to);
    }
  }

  template <class F>
  void each(int64_t s, int64_t first, int64_t end, float* out, const F& f) {
    const TilesInUse tiles(layout_.cut.rows);
    for (int64_t c = first; c < end;) {
      const int64_t columns = two_tiles(s, c, end, out);
      f(c, columns);
      c += columns;
    }
  }

  void coefficients(int64_t s, int64_t first, int64_t columns, float* out) {
    const TilesInUse tiles(layout_.cut.rows);
    for (int64_t c = first; c < first + columns;) c += two_tiles(s, c, first + columns, out + (c - first) * R);
  }

  void add_rows(const float* coefficients, int64_t stride, int64_t first, int64_t columns, float* dz) {
    const TileCut& cut = layout_.back;
    const int64_t pieces = pieces_of(columns), p = bases_.p;
    const uint32_t* chunk = bases_.back_tiles + first / (layout_.chunk * bases_.d) * layout_.back_chunk();
    const auto back = [&](int64_t j) {
      return Factor{chunk + cut.tile(j) * layout_.back_tile(), layout_.back_part(), layout_.back_piece(),
                    layout_.back_tile(), layout_.parts};
    };
    const TilesInUse tiles(cut.rows);
    for (int64_t s = 0; s < block_.strips; ++s, coefficients += stride, dz += p * R) {
      const uint32_t apart = split_lanes_safely<3>(coefficients, columns, coefficients_);
      const Factor b{coefficients_, 2 * pieces * kTileWords, kTileWords, pieces * kTileWords, 3};
      for (int64_t j = 0; j < p;) {
        const int64_t width = cut.width(j, p);
        tile_product(back(j), b, width > cut.rows, true, pieces, cut.rows, sums_, R);
        for (int64_t i = 0; i < width * R; ++i) dz[j * R + i] += sums_[i];
        j += width;
      }
      for_each_row(apart, [&](int64_t r) {
        std::fill(row_ + 0, row_ + pieces * kPiece, 0.0f);
        for (int64_t c = 0; c < columns; ++c) row_[c] = coefficients[c * R + r];
        for (int64_t j = 0; j < p; ++j) dz[j * R + r] += dot_words(row_, row_of(back(j), cut.row(j)), pieces);
      });
    }
  }

  void add_bases(const float* coefficients, int64_t stride, int64_t columns, float* sums, bool add) {
    const TileCut cut(columns, columns);
    uint32_t apart[kStrips];
    for (int64_t s = 0; s < block_.strips; ++s)
      apart[s] =
          split_columns_safely(coefficients + s * stride, columns, apart_[s], coefficients_ + s * coefficient_words_);
    const TilesInUse tiles(cut.rows);
    for (int64_t c = 0; c < columns;) {
      const int64_t width = cut.width(c, columns);
      const Factor a{coefficients_ + c * kWords, coefficient_words_ / 3, coefficient_words_, cut.rows * kWords, 3};
      for (int64_t j = 0; j < bases_.stride; j += R) {
        const Factor b{rows_ + j * kWords, row_words_ / 3, row_words_, kTileWords, parts_};
        const int64_t here = std::min<int64_t>(R, bases_.stride - j);
        tile_product(a, b, width > cut.rows, here == R, block_.strips, cut.rows, sums_, R);
        put(width, here, sums + c * bases_.stride + j, add);
      }
      c += width;
    }
    for (int64_t s = 0; s < block_.strips; ++s)
      for_each_row(apart[s], [&](int64_t r) {
        const float* row = block_.rows + (s * R + r) * block_.stride;
        for (int64_t c = 0; c < columns; ++c)
          for (int64_t j = 0; j < bases_.stride; ++j)
            sums[c * bases_.stride + j] += coefficients[s * stride + c * R + r] * row[j];
      });
  }

 private:
  template <class F>
  static void for_each_row(uint32_t rows, const F& f) {
    for (; rows; rows &= rows - 1) f(int64_t(std::countr_zero(rows)));
  }

  // The rows of the strip that are out of range, which are zero in the tiles.
  template <int parts>
  static uint32_t split_lanes_safely(const float* lanes, int64_t columns, uint32_t* to) {
    if (split_lanes<parts, false>(lanes, columns, 0, to)) return 0;
    const uint32_t apart = rows_out_of_range(lanes, columns);
    split_lanes<parts, true>(lanes, columns, apart, to);
    return apart;
  }

  // The same for the sum over rows, where those of z that are out of range are zero too.
  uint32_t split_columns_safely(const float* lanes, int64_t columns, uint32_t apart, uint32_t* to) const {
    const int64_t step = coefficient_words_ / 3;
    if (!apart && split_columns<false>(lanes, columns, 0, to, step)) return 0;
    apart |= rows_out_of_range(lanes, columns);
    split_columns<true>(lanes, columns, apart, to, step);
    return apart;
  }

  static Factor row_of(Factor tile, int64_t row) {
    tile.data += row * kWords;
    return tile;
  }

  // sums_ [columns][R] to [columns, bases.stride], or added to it.
  void put(int64_t columns, int64_t width, float* to, bool add) const {
    const float* from = sums_;
    for (int64_t x = 0; x < columns; ++x, from += R, to += bases_.stride)
      for (int64_t i = 0; i < width; i += kLanes<float>) {
        const Vector<float> sum = DESC_EXT_ISA::load(from + i);
        store(to + i, add ? Vector<float>(DESC_EXT_ISA::load(to + i) + sum) : sum);
      }
  }

  // Coefficients of strip s for the columns of one or two tiles, whose number is returned.
  int64_t two_tiles(int64_t s, int64_t column, int64_t end, float* out) {
    const TileCut& cut = layout_.cut;
    const int64_t width = cut.width(column, end);
    const Factor a{bases_.tiles + cut.tile(column) * layout_.tile(), layout_.part(), layout_.piece(), layout_.tile(),
                   layout_.parts};
    const Factor b{lanes_ + s * strip_words_, strip_words_ / 3, kTileWords, pieces_ * kTileWords, parts_};
    tile_product(a, b, width > cut.rows, true, pieces_, cut.rows, out, R, &ahead_);
    for_each_row(apart_[s], [&](int64_t r) {
      std::fill(row_ + 0, row_ + pieces_ * kPiece, 0.0f);
      std::copy_n(block_.rows + (s * R + r) * block_.stride, bases_.p, row_ + 0);
      for (int64_t x = 0; x < width; ++x)
        out[x * R + r] = dot_words(row_, row_of(a, x / cut.rows * (a.tile / kWords) + x % cut.rows), pieces_);
    });
    return width;
  }

  const Bases<float>& bases_;
  const Rows& z_;
  Ahead ahead_{};  // rows of the next block
  const Block<float>& block_;
  const TileLayout layout_;
  const int parts_;
  const int64_t pieces_, strips_, chunk_columns_, strip_words_, row_words_, coefficient_words_;
  Buffer<uint32_t> lanes_;
  Buffer<uint32_t> apart_;  // [strips] rows of z that are out of range
  Buffer<uint32_t> rows_, coefficients_;
  Buffer<float> sums_, row_;  // two and two tiles; a row that is out of range
};

}  // namespace desc_ext::cpu::DESC_EXT_ISA
