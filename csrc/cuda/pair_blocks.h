// How pairs of rows are walked over on CUDA: in blocks of rows × columns whose values take 16 MiB together and stay in
// L2, batch element by batch element. The rows of either side are prepared, and packed for the product engine, once. What
// this takes grows with n·p, not with n².
#pragma once

#include <cmath>

#include "operator.h"
#include "pair_rows.cuh"

namespace desc_ext::cuda {

#ifdef __CUDACC__
inline constexpr int64_t kPairBytes = int64_t(16) << 20, kPairColumns = 512;
#else
inline constexpr int64_t kPairBytes = int64_t(64) << 10, kPairColumns = 128;  // so that small tests have several blocks
#endif

// The pairs of n rows with n columns, cut evenly; a call holds `arrays` of values of each block.
class PairBlocks {
 public:
  template <class T>
  static PairBlocks of(int64_t n, int arrays) {
    const int64_t values = kPairBytes / (arrays * int64_t(sizeof(T)));
    PairBlocks blocks;
    blocks.n_ = n, blocks.rows_ = part(n, values / kPairColumns);
    const int64_t fit = values / std::max<int64_t>(1, blocks.rows_) / 128 * 128;
    blocks.columns_ = std::min(n, ceil_div<int64_t>(part(n, fit), 128) * 128);
    return blocks;
  }

  int64_t row_blocks() const { return n_ ? ceil_div(n_, rows_) : 0; }
  int64_t column_blocks() const { return n_ ? ceil_div(n_, columns_) : 0; }
  int64_t rows() const { return rows_; }
  int64_t columns(int64_t j) const { return std::min(columns_, n_ - j * columns_); }
  int64_t elements() const { return rows_ * pitch(columns_); }
  PairBlock at(int64_t i, int64_t j) const {
    return {i * rows_, std::min(rows_, n_ - i * rows_), j * columns_, columns(j), pitch(columns(j))};
  }

 private:
  // n over as few equal parts as fit.
  static int64_t part(int64_t n, int64_t most) { return n ? ceil_div(n, ceil_div(n, most)) : 0; }
  static int64_t pitch(int64_t columns) { return ceil_div<int64_t>(columns, 4) * 4; }  // rows begin at packs

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
      : batch(z.size(0)), n(z.size(1)), p(z.size(2)), as_they_are_(change == RowChange::none && storage_of(z) == kStorage<T>),
        copy_(z, as_they_are_ ? 0 : batch * n * p), inverse_norm_(z, change == RowChange::unit ? batch * n : 0) {
    rows_ = as_they_are_ ? data<T>(z) : copy_.get();
    if (as_they_are_ || batch * n * p == 0) return;
    PreparedRows<T> job{rows_of(z), batch * n, n, nullptr, nullptr, copy_};
    if (change == RowChange::unit) job.inverse_norm = inverse_norm_;
    if (change != RowChange::centred || storage_of(z) != kStorage<T>) check_launch(op, run_pair_prepare(job, device.stream));
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
  ColumnSide(const char* op, const Tensor& like, const PairBlocks& blocks, int64_t p, PairKind kind, const Device& device)
      : op_(op), blocks_(blocks), p_(p), kind_(kind), device_(device),
        panels_(like, p ? blocks.column_blocks() * panel_elements() : 0) {}

  void pack(const T* x) {
    for (int64_t j = 0; j < blocks_.column_blocks() && p_ > 0; ++j)
      check_launch(op_, run_pack_panels<T>(plan(j), x + blocks_.at(0, j).column * p_, false, nullptr, panels(j), device_.stream));
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

// Rows x [n, p] of a batch element as what weights are multiplied by: Σ_j weight_ij x_j for the rows of a block of rows,
// added up over the blocks of columns.
template <class T>
class WeightedSums {
 public:
  WeightedSums(const char* op, const Tensor& like, const PairBlocks& blocks, int64_t p, const Device& device)
      : op_(op), blocks_(blocks), p_(p), device_(device),
        panels_(like, p ? blocks.column_blocks() * panel_elements() : 0), sums_(like, blocks.rows() * p),
        ones_(empty_of(like, {blocks.rows()}, sizeof(T) == 8 ? ScalarType::Double : ScalarType::Float)) {
    torch::stable::fill_(ones_, 1.0);
  }

  void pack(const T* x) {
    for (int64_t j = 0; j < blocks_.column_blocks() && p_ > 0; ++j)
      check_launch(op_, run_pack_panels<T>(plan(j), x + blocks_.at(0, j).column * p_, true, nullptr, panels(j), device_.stream));
  }

  void add(T* weights, const PairBlock& block, int64_t j) {
    if (p_ == 0) return;
    const Rows rows{weights, kStorage<T>, block.pitch, nullptr}, before{sums_.get(), kStorage<T>, p_, nullptr};
    const RowsOut<T> out{{sums_.get(), kStorage<T>, p_}, before, block.column ? data<T>(ones_) : nullptr, T(1), T(1)};
    check_launch(op_, run_rows<T>(make_product<T>(rows, block.rows, plan(j), panels(j)), out, device_.stream));
  }
  const T* get() { return sums_; }

  // factor_i x_i + sign · sums_i, where x is given, else the sums, as rows of `out`.
  void store(const PairBlock& block, const T* x, const T* factor, T sign, const MutableRows& out) {
    if (p_ == 0) return;
    check_launch(op_, run_pair_store<T>({sums_.get(), x, factor, sign, block.rows, out}, device_.stream));
  }

 private:
  Plan plan(int64_t j) const { return plan_columns<T>(p_, blocks_.columns(j)); }
  int64_t panel_elements() const { return blocks_.column_blocks() ? plan(0).panel_elements() : 0; }
  T* panels(int64_t j) { return panels_ + j * panel_elements(); }

  const char* op_;
  const PairBlocks& blocks_;
  const int64_t p_;
  const Device& device_;
  Workspace<T> panels_, sums_;
  Tensor ones_;
};

// Rows from row `first` of batch element `b` on of a contiguous tensor [b, n, p].
inline MutableRows batch_rows(Tensor& tensor, int64_t b, int64_t first = 0) {
  return mutable_rows_of(tensor, b * tensor.size(1) + first);
}

}  // namespace desc_ext::cuda
