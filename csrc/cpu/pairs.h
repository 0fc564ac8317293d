// Batches of rows packed for the kernels over pairs, and the order in which pairs of blocks are taken.
#pragma once

#include <cmath>

#include "operator.h"
#include "pair_kernels.h"

namespace desc_ext::cpu {

// Rows [b·n, p] from position `offset` on.
inline Rows rows_from(const Rows& rows, int64_t offset) {
  const int64_t bytes = rows.storage == Storage::f64 ? 8 : rows.storage == Storage::f32 ? 4 : 2;
  Rows moved = rows;
  moved.data = static_cast<const char*>(rows.data) + offset * rows.columns * bytes;
  return moved;
}

// How the n rows of a batch element are cut into blocks: by shape alone, so that no result depends on the threads. A
// pair of blocks is some 10⁷ operations, because threads meet at the end of every round of pairs; up to 256 rows where
// there are many.
struct Blocks {
  int64_t n, strip, strips_each, count;
  double operations;  // of all pairs of a batch element

  template <class T>
  static Blocks of(int64_t n, int64_t p) {
    const int64_t strip = pair_table<T>().strip, strips = (n + strip - 1) / strip;
    const int64_t by_work = int64_t(std::sqrt(5e6 / double(std::max<int64_t>(p, 1)))) / strip;
    const int64_t each = std::clamp<int64_t>(std::max(by_work, strips / 32), 1, 256 / strip);
    return {n, strip, each, (strips + each - 1) / each, double(n) * double(n) * double(p)};
  }
  // Too little work to be worth waking other threads for.
  bool small(int64_t batch) const { return double(batch) * operations < 1e7; }
  int64_t strips() const { return (n + strip - 1) / strip; }
  int64_t padded() const { return strips() * strip; }
};

// Strips that a thread takes at least, to move some 2¹⁶ elements.
inline int64_t packing_grain(int64_t elements) { return 1 + (int64_t(1) << 16) / std::max<int64_t>(1, elements); }

// [b, n, p] as strips, after (row − offset) · scale_i; as rows, and as panels for sums of them, where they are wanted.
enum class Keep { strips, rows, panels };
template <class T>
class PackedRows {
 public:
  PackedRows(const Tensor& z, Keep keep, const T* offset = nullptr, const T* scale = nullptr)
      : n_(z.size(1)), p_(z.size(2)), blocks_(Blocks::of<T>(n_, p_)), strips_(z.size(0) * blocks_.padded() * p_) {
    const Rows source = rows_of(z);
    const int64_t batch = z.size(0), strips = blocks_.strips();
    const bool keep_rows = keep != Keep::strips;
    const bool as_they_are = z.scalar_type() == kScalarType<T> && !offset && !scale;
    if (keep_rows && !as_they_are) rows_copy_ = Array<T>(batch * n_ * p_);
    rows_ = !keep_rows ? nullptr : as_they_are ? data<T>(z) : rows_copy_.get();
    T* copy = keep_rows && !as_they_are ? rows_copy_.get() : nullptr;
    parallel_for(0, batch * strips, packing_grain(blocks_.strip * p_), [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t b = task / strips, s = task % strips;
        pair_table<T>().pack_strips(rows_from(source, b * n_), offset ? offset + b * p_ : nullptr,
                                    scale ? scale + b * n_ : nullptr, n_, s, s + 1, strips_ + b * blocks_.padded() * p_,
                                    copy ? copy + b * n_ * p_ : nullptr);
      }
    });
    if (keep != Keep::panels) return;
    // Read as they lie, rows would cost each step of a tile another line of the cache, and long ones another page.
    panels_ = Array<T>(batch * n_ * p_);
    const int64_t each = blocks_.strips_each * blocks_.strip;
    for_tasks(batch * blocks_.count, 4.0 * double(each * p_), [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t first = task % blocks_.count * each, at = (task / blocks_.count * n_ + first) * p_;
        table<T>().pack_transposed(rows_ + at, p_, nullptr, p_, std::min(each, n_ - first), panels_ + at);
      }
    });
  }

  Strips<T> operator[](int64_t b) const {
    const int64_t at = b * n_ * p_;
    return {strips_ + b * blocks_.padded() * p_, rows_ ? rows_ + at : nullptr, n_, p_,
            panels_ ? panels_ + at : nullptr};
  }
  const Blocks& blocks() const { return blocks_; }

 private:
  int64_t n_, p_;
  Blocks blocks_;
  Array<T> strips_, rows_copy_, panels_;
  const T* rows_ = nullptr;
};

// Sums in strips [b][strips][p][strip], zero at first.
template <class T>
class StripSums {
 public:
  StripSums() = default;
  StripSums(int64_t batch, const Blocks& blocks, int64_t p)
      : size_(blocks.padded() * p), p_(p), blocks_(blocks), sums_(batch * size_) {
    std::fill(sums_ + 0, sums_ + batch * size_, T(0));
  }
  T* operator[](int64_t b) const { return sums_ ? sums_ + b * size_ : nullptr; }

  // finish(b, i, row) changes the sums of row i of batch element b, which are then stored.
  template <class F>
  void store(int64_t batch, Tensor& out, const F& finish) const {
    const MutableRows rows = mutable_rows_of(out);
    const int64_t strips = blocks_.strips(), strip = blocks_.strip;
    parallel_for(0, batch * strips, packing_grain(strip * p_), [&](int64_t begin, int64_t end) {
      Array<T> buffer(strip * p_);
      for (int64_t task = begin; task < end; ++task) {
        const int64_t b = task / strips, s = task % strips, count = std::min(strip, blocks_.n - s * strip);
        pair_table<T>().unpack_strip((*this)[b] + s * strip * p_, p_, count, buffer);
        for (int64_t r = 0; r < count; ++r) {
          finish(b, s * strip + r, buffer + r * p_);
          table<T>().store_row(rows, b * blocks_.n + s * strip + r, buffer + r * p_);
        }
      }
    });
  }

 private:
  int64_t size_ = 0, p_ = 0;
  Blocks blocks_{};
  Array<T> sums_;
};

// An array with a number for every row, padded to whole strips: [b][padded].
template <class T>
class RowValues {
 public:
  RowValues() = default;
  RowValues(int64_t batch, const Blocks& blocks, T value = T(0)) : padded_(blocks.padded()), values_(batch * padded_) {
    std::fill(values_ + 0, values_ + batch * padded_, value);
  }
  T* operator[](int64_t b) const { return values_ ? values_ + b * padded_ : nullptr; }

 private:
  int64_t padded_ = 0;
  Array<T> values_;
};

// f(b, pair) for all pairs of blocks, in rounds in which no block stands in two pairs: what a pair adds to the sums of
// its rows is added in the same order for any number of threads. Unordered pairs go by the circle method of
// tournaments.
template <class F>
void for_pair_tasks(bool alone, int64_t tasks, const F& f) {
  if (!alone) return for_each_task(tasks, f);
  for (int64_t task = 0; task < tasks; ++task) f(task);
}

template <class F>
void for_unordered_pairs(int64_t batch, const Blocks& blocks, const F& f) {
  const int64_t count = blocks.count, even = count + count % 2, each = blocks.strips_each;
  const bool alone = blocks.small(batch);
  for_pair_tasks(alone, batch * count,
                 [&](int64_t task) { f(task / count, BlockPair{task % count, task % count, each}); });
  for (int64_t round = 0; count > 1 && round < even - 1; ++round)
    for_pair_tasks(alone, batch * (even / 2), [&](int64_t task) {
      const int64_t k = task % (even / 2);
      const int64_t a = k == 0 ? even - 1 : (round + k) % (even - 1), b = (round + even - 1 - k) % (even - 1);
      if (std::max(a, b) < count) f(task / (even / 2), BlockPair{std::min(a, b), std::max(a, b), each});
    });
}

template <class F>
void for_ordered_pairs(int64_t batch, const Blocks& blocks, const F& f) {
  const int64_t count = blocks.count;
  for (int64_t round = 0; round < count; ++round)
    for_pair_tasks(blocks.small(batch), batch * count, [&](int64_t task) {
      const int64_t first = task % count;
      f(task / count, BlockPair{first, (first + round) % count, blocks.strips_each});
    });
}

// f(b, i) for all rows.
template <class F>
void for_batch_rows(int64_t batch, int64_t n, const F& f) {
  parallel_for(0, batch * n, 2048, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at) f(at / n, at % n);
  });
}

// s_i = 1/(1 − ‖y_i‖²), 1 − ‖y_i‖² being at least the rounding unit; with its derivative by ‖y_i‖².
template <class T>
struct LeverageScale {
  RowValues<T> scale;

  LeverageScale(const PackedRows<T>& y, int64_t batch) : scale(batch, y.blocks()) {
    for_batch_rows(batch, y.blocks().n, [&](int64_t b, int64_t i) {
      const Strips<T> rows = y[b];
      double leverage = 0;
      for (int64_t j = 0; j < rows.p; ++j) leverage += double(rows.rows[i * rows.p + j]) * rows.rows[i * rows.p + j];
      scale[b][i] = T(1 / std::max(1 - leverage, kLeast));
    });
  }
  T slope(int64_t b, int64_t i) const {
    const double s = scale[b][i];
    return s * kLeast < 1 ? T(s * s) : T(0);
  }

 private:
  static constexpr double kLeast = std::numeric_limits<T>::epsilon();
};

}  // namespace desc_ext::cpu
