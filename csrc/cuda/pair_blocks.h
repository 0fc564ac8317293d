// How pairs of rows are walked over on CUDA: in blocks of rows × columns whose values take 32 MiB together and stay in
// L2, batch element by batch element. The rows of either side are prepared, and packed for the product engine, once.
// What this takes grows with n·p, not with n².
#pragma once

#include <cmath>

#include "operator.h"
#include "pair_rows.cuh"

namespace desc_ext::cuda {

inline constexpr int64_t kPairRows = 8192, kPairColumns = kSlots * kSlotColumns;  // of a block at most; of a tile

// The pairs of n rows with n columns, cut into blocks of whole tiles of the product engine; a call holds `arrays` of
// values of each block.
class PairBlocks {
 public:
  // The shape that needs the fewest waves of tiles, a launch counting as a part of one; the arrays of a block take
  // `bytes`.
  template <class T>
  static PairBlocks of(int64_t n, int arrays, int64_t bytes) {
    constexpr int64_t tile_rows = TileShape<T>::rows;
    const int64_t most = bytes / (arrays * int64_t(sizeof(T)) * tile_rows * kPairColumns);
    const int64_t at_once = int64_t(TileShape<T>::blocks) * multiprocessors();
    const int64_t tall = ceil_div(n, tile_rows), wide = ceil_div(n, kPairColumns);
    PairBlocks blocks;
    blocks.n_ = n;
    double least = INFINITY;
    for (int64_t rows = std::min({tall, most, kPairRows / tile_rows}); rows > 0; --rows)
      for (int64_t waves = 1; waves <= 3; ++waves) {
        const int64_t columns = std::clamp<int64_t>(waves * at_once / rows, 1, std::min(wide, most / rows));
        const double launches = double(ceil_div(tall, rows) * ceil_div(wide, columns));
        const double cost = launches * (double(ceil_div(rows * columns, at_once)) + 0.15);
        if (cost >= least) continue;
        least = cost;
        blocks.rows_ = std::min(n, rows * tile_rows), blocks.columns_ = std::min(n, columns * kPairColumns);
      }
    return blocks;
  }

  int64_t row_blocks() const { return n_ ? ceil_div(n_, rows_) : 0; }
  int64_t column_blocks() const { return n_ ? ceil_div(n_, columns_) : 0; }
  int64_t n() const { return n_; }
  int64_t rows() const { return rows_; }
  int64_t columns(int64_t j) const { return std::min(columns_, n_ - j * columns_); }
  int64_t elements() const { return rows_ * pitch(columns_); }
  // Of all pitches of the blocks of a row together.
  int64_t depth() const { return n_ ? (column_blocks() - 1) * columns_ + pitch(columns(column_blocks() - 1)) : 0; }
  PairBlock at(int64_t i, int64_t j) const {
    return {i * rows_, std::min(rows_, n_ - i * rows_), j * columns_, columns(j), pitch(columns(j))};
  }

 private:
  // Rows begin at packs, and up to eight parts of one end there.
  static int64_t pitch(int64_t columns) { return ceil_div<int64_t>(columns, 32) * 32; }

  int64_t n_ = 0, rows_ = 0, columns_ = 0;
};

enum class RowChange { none, centred, unit };

// Rows [b, n, p] in the type of the arithmetic: as they are, without the mean row of their batch element, which
// distances do not see and differences of long rows would lose digits to, or of length 1.
template <class T>
class PairRows {
 public:
  const int64_t batch, n, p;

  // `z` is contiguous and outlives this.
  PairRows(const char* op, const Tensor& z, RowChange change, const Device& device)
      : batch(z.size(0)), n(z.size(1)), p(z.size(2)),
        as_they_are_(change == RowChange::none && storage_of(z) == kStorage<T>),
        copy_(z, as_they_are_ ? 0 : batch * n * p), inverse_norm_(z, change == RowChange::unit ? batch * n : 0) {
    rows_ = as_they_are_ ? data<T>(z) : copy_.get();
    if (as_they_are_ || batch * n * p == 0) return;
    PreparedRows<T> job{rows_of(z), batch * n, n, nullptr, nullptr, copy_};
    if (change == RowChange::unit) job.inverse_norm = inverse_norm_;
    if (change != RowChange::centred || storage_of(z) != kStorage<T>)
      check_launch(op, run_pair_prepare(job, device.stream));
    if (change != RowChange::centred) return;
    if (storage_of(z) != kStorage<T>) job.in = {copy_.get(), kStorage<T>, p, nullptr};
    Workspace<double> totals(z, batch * p), partial(z, column_chunks(n, p) * p);
    for (int64_t b = 0; b < batch; ++b)
      check_launch(op, run_column_sums<T>(static_cast<const T*>(job.in.data) + b * n * p, n, p, partial, false,
                                          totals + b * p, device.stream));
    job.totals = totals;
    check_launch(op, run_pair_prepare(job, device.stream));
  }

  const T* operator[](int64_t b) const { return rows_ + b * n * p; }
  const T* inverse_norm(int64_t b) { return inverse_norm_ + b * n; }

 private:
  const bool as_they_are_;
  Workspace<T> copy_, inverse_norm_;
  const T* rows_;
};

// s_i = 1/(1 − ‖y_i‖²) of all rows, and its derivative by ‖y_i‖².
template <class T>
struct Leverage {
  Workspace<T> scale, slope;
  Leverage(const char* op, const Tensor& like, const PairRows<T>& y, const Device& device)
      : scale(like, y.batch * y.n), slope(like, y.batch * y.n) {
    check_launch(op, run_pair_leverage(y[0], y.batch * y.n, y.p, scale.get(), slope.get(), device.stream));
  }
};

enum class PairKind { products, distances };

// Rows x [n, p] of a batch element as the other side of pairs: values of rows with them, block by block.
template <class T>
class ColumnSide {
 public:
  ColumnSide(const char* op, const Tensor& like, const PairBlocks& blocks, int64_t p, PairKind kind,
             const Device& device)
      : op_(op), blocks_(blocks), p_(p), kind_(kind), device_(device),
        panels_(like, p ? blocks.column_blocks() * panel_elements() : 0) {}

  void pack(const T* x) {
    for (int64_t j = 0; j < blocks_.column_blocks() && p_ > 0; ++j)
      check_launch(op_, run_pack_panels<T>(plan(j), x + blocks_.at(0, j).column * p_, false, nullptr, panels(j),
                                           device_.stream));
  }

  // Of the rows of a block, which are rows of `x`, with its columns.
  void values(const T* x, const PairBlock& block, int64_t j, Workspace<T>& out) {
    if (p_ == 0) return out.zero();
    const Rows rows{x + block.row * p_, kStorage<T>, p_, nullptr};
    const auto job = make_product<T>(rows, block.rows, plan(j), panels(j));
    check_launch(op_, kind_ == PairKind::products ? run_products<T>(job, out, block.pitch, device_.stream)
                                                  : run_distances<T>(job, out, device_.stream, block.pitch));
  }

 private:
  Plan plan(int64_t j) const {
    return plan_columns<T>(blocks_.columns(j), p_, kind_ == PairKind::products ? kSlotColumns : kDistanceColumns);
  }
  int64_t panel_elements() const { return blocks_.column_blocks() ? plan(0).panel_elements() : 0; }
  T* panels(int64_t j) { return panels_ + j * panel_elements(); }

  const char* op_;
  const PairBlocks& blocks_;
  const int64_t p_;
  const PairKind kind_;
  const Device& device_;
  Workspace<T> panels_;
};

// Rows x [n, p] of a batch element as what weights are multiplied by: Σ_j weight_ij x_j for the rows of a block of
// rows, added up over the blocks of columns. Where the rows' tiles would leave multiprocessors idle, each block of
// columns is cut into parts, and every part adds to sums of its own until total() puts them together in order.
template <class T>
class WeightedSums {
 public:
  WeightedSums(const char* op, const Tensor& like, const PairBlocks& blocks, int64_t p, const Device& device)
      : op_(op), blocks_(blocks), p_(p), pitch_(ceil_div<int64_t>(p, 4) * 4), device_(device), plan_(plan(blocks, p)),
        panels_(like, p ? plan_.panel_elements() : 0), sums_(like, blocks.rows() * p),
        parts_(like, set_rows() * pitch_),
        ones_(empty_of(like, {set_rows()}, sizeof(T) == 8 ? ScalarType::Double : ScalarType::Float)) {
    torch::stable::fill_(ones_, 1.0);
  }

  void pack(const T* x) {
    if (p_ > 0 && blocks_.depth() > 0) check(run_pack_panels<T>(plan_, x, true, nullptr, panels_, device_.stream));
  }

  void add(T* weights, const PairBlock& block) {
    if (p_ == 0) return;
    const MutableRows parts{parts_.get(), kStorage<T>, pitch_};
    const RowsOut<T> out{
        parts, {parts.data, parts.storage, pitch_, nullptr}, block.column ? data<T>(ones_) : nullptr, T(1), T(1)};
    check(run_rows<T>(cuts(block.rows).job(weights, block.pitch, plan_, panels_, block.column), out, device_.stream));
  }

  // The sums [rows, p] of the block's rows.
  const T* total(const PairBlock& block) {
    if (p_ == 0) return sums_;
    const RowsOut<T> out{{sums_.get(), kStorage<T>, p_}, {}, nullptr, T(1), T(1)};
    check(run_cut_sum<T>(cuts(block.rows), p_, parts_, pitch_, out, device_.stream));
    return sums_;
  }

  // factor_i x_i + sign · sums_i, where x is given, else the sums, as rows of `out`.
  void store(const PairBlock& block, const T* x, const T* factor, T sign, const MutableRows& out) {
    if (p_ == 0) return;
    check(run_pair_store<T>({total(block), x, factor, sign, block.rows, out}, device_.stream));
  }

 private:
  void check(cudaError_t error) const { check_launch(op_, error); }

  static Plan plan(const PairBlocks& blocks, int64_t p) {
    Plan plan = plan_columns<T>(std::max<int64_t>(p, 1), blocks.n());
    plan.depth = int(blocks.depth());
    return plan;
  }

  // One part, or 2, 4 or 8, of which a pitch is a multiple.
  DepthCuts<T> cuts(int64_t rows) const {
    const int64_t tiles = ceil_div<int64_t>(rows, TileShape<T>::rows);
    int cuts = 1;
    while (cuts < 8 && 2 * cuts * tiles * plan_.tiles <= TileShape<T>::blocks * multiprocessors()) cuts *= 2;
    return {rows, tiles * TileShape<T>::rows, cuts};
  }
  int64_t set_rows() const {
    const auto all = cuts(blocks_.rows());
    const int64_t fewer =
        TileShape<T>::blocks * multiprocessors() / plan_.tiles * TileShape<T>::rows;  // in a last block
    return std::max(all.set_rows * all.cuts, std::min(fewer, 8 * all.set_rows));
  }

  const char* op_;
  const PairBlocks& blocks_;
  const int64_t p_, pitch_;
  const Device& device_;
  const Plan plan_;
  Workspace<T> panels_, sums_, parts_;
  Tensor ones_;
};

// Rows from row `first` of batch element `b` on of a contiguous tensor [b, n, p].
inline MutableRows batch_rows(Tensor& tensor, int64_t b, int64_t first = 0) {
  return mutable_rows_of(tensor, b * tensor.size(1) + first);
}

}  // namespace desc_ext::cuda
