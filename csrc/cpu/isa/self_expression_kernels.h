// Self-expression family: the largest coefficients of every row, and the residual of a learned C. Operations: n²·p for
// the selection (half of the pairs, each for both its rows), 2·n²·p for the residual, as many for each of its
// gradients.
#pragma once

#include "pair_tile.h"

namespace desc_ext::cpu::DESC_EXT_ISA {

// ---- largest coefficients ------------------------------------------------------------------------------------

// Takes value at j into the k largest of a row; equal sizes are ordered by index.
template <class T>
static inline void insert(T value, int64_t j, int64_t k, T* values, int64_t* indices) {
  const T size = std::abs(value);
  const auto before = [&](int64_t at) {
    if (indices[at] < 0) return true;
    const T other = std::abs(values[at]);
    return size > other || (size == other && j < indices[at]);
  };
  int64_t at = k - 1;
  if (!before(at)) return;
  for (; at > 0 && before(at - 1); --at) values[at] = values[at - 1], indices[at] = indices[at - 1];
  values[at] = value, indices[at] = j;
}

// The rows of strip s meet those of strip t; tile [column of t][row of s]. Few tiles hold anything new for a row, so a
// tile's largest value is found first, in vectors.
template <class T>
static inline void select_from(const PairSelection<T>& job, const T* tile, int64_t s, int64_t t) {
  constexpr int L = kLanes<T>, R = kStrip<T>;
  Vector<T> low{}, high{};
  low -= T(1), high -= T(1);
  for (int c = 0; c < R; ++c) {
    low = larger<T>(low, magnitude<T>(load(tile + c * R)));
    high = larger<T>(high, magnitude<T>(load(tile + c * R + L)));
  }
  T largest[R];
  store(largest, low), store(largest + L, high);
  const int64_t rows = rows_in_strip<T>(job.y.n, s), columns = rows_in_strip<T>(job.y.n, t);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t i = s * R + r;
    T* values = job.values + i * job.k;
    int64_t* indices = job.indices + i * job.k;
    if (indices[job.k - 1] >= 0 && !(largest[r] >= std::abs(values[job.k - 1]))) continue;
    for (int64_t c = 0; c < columns; ++c) {
      const T value = tile[c * R + r];
      if (t * R + c != i && std::abs(value) >= T(0)) insert(value, t * R + c, job.k, values, indices);
    }
  }
}

template <class T>
static void select(const PairSelection<T>& job, const BlockPair& pair) {
  constexpr int L = kLanes<T>, R = kStrip<T>;
  const PairRange range = PairRange::of(pair, job.y, job.y, true);
  Buffer<T> values(strips_at_a_time(range, job.y.p) * range.columns() * R * R), turned(R * R);
  const auto compute = [&](int64_t from, int64_t to) { pair_values<T>(range, job.y, job.y, from, to, values); };
  for_tiles<T>(range, job.y.p, compute, [&](int64_t s, int64_t t, int64_t at) {
    T* tile = values + at;
    if (job.scale) {
      const T* scale = job.scale + s * R;  // padded to whole strips
      for (int64_t c = 0; c < rows_in_strip<T>(job.y.n, t); ++c)
        for (int h = 0; h < R; h += L) {
          const Vector<T> mean = (load(scale + h) + job.scale[t * R + c]) * T(0.5);
          store(tile + c * R + h, Vector<T>(load(tile + c * R + h) * mean));
        }
    }
    select_from(job, tile, s, t);
    if (s == t) return;
    transpose_tile<T>(tile, turned);
    select_from(job, static_cast<const T*>(turned), t, s);
  });
}

// ---- a learned C -----------------------------------------------------------------------------------------------

static constexpr int64_t kCoefColumns = 256;  // columns of C taken at a time: their rows of z stay in the cache

template <class T>
static inline T size_of(const T* row, int64_t count, bool absolute) {
  T sum = 0;
  for (int64_t j = 0; j < count; ++j) sum += absolute ? std::abs(row[j]) : row[j] * row[j];
  return sum;
}

// Columns [begin, begin + count) of a row of C as T, the diagonal zero.
template <class T>
static inline void load_coef(const Rows& coef, int64_t i, int64_t begin, int64_t count, T* out) {
  Rows part = coef;
  const int64_t bytes = coef.storage == Storage::f64 ? 8 : coef.storage == Storage::f32 ? 4 : 2;
  part.data = static_cast<const char*>(coef.data) + (i * coef.columns + begin) * bytes;
  part.columns = count;
  load_row<T>(part, 0, out);
  if (i >= begin && i < begin + count) out[i - begin] = 0;
}

template <class T>
static void self_expression(const SelfExpression<T>& job, int64_t begin, int64_t end) {
  constexpr int64_t R = kStrip<T>;
  const int64_t n = job.n, p = job.p;
  Buffer<T> coef(R * kCoefColumns), lanes(kCoefColumns * R), product(p * R), rows(R * p);
  for (int64_t s = begin; s < end; ++s) {
    const int64_t count = rows_in_strip<T>(n, s);
    double size = 0, squared = 0;
    std::fill(product + 0, product + p * R, T(0));
    std::fill(coef + 0, coef + R * kCoefColumns, T(0));
    for (int64_t j = 0; j < n; j += kCoefColumns) {
      const int64_t width = std::min(kCoefColumns, n - j);
      for (int64_t r = 0; r < count; ++r) {
        T* row = coef + r * kCoefColumns;
        load_coef<T>(job.coef, s * R + r, j, width, row);
        size += double(size_of(row, width, job.absolute));
      }
      rows_to_lanes<T>(coef, kCoefColumns, width, lanes);
      strip_product<T>(lanes, R, job.z + j * p, p, p, width, product, true);
    }
    lanes_to_rows<T>(product, p, count, rows, p);
    for (int64_t r = 0; r < count; ++r) {
      const int64_t at = (s * R + r) * p;
      T sum = 0;
      for (int64_t c = 0; c < p; ++c) {
        const T difference = job.z[at + c] - rows[r * p + c];
        job.difference[at + c] = difference;
        sum += difference * difference;
      }
      squared += double(sum);
    }
    job.squared[s] = squared;
    job.size[s] = size;
  }
}

// dC = −g (Z − C̃Z) Zᵀ + g_size · (2 C̃ or sign C̃), its diagonal 0.
template <class T>
static void self_expression_coef(const SelfExpression<T>& job, int64_t begin, int64_t end) {
  constexpr int64_t R = kStrip<T>;
  const int64_t n = job.n;
  Buffer<T> tile(R * R), turned(R * R), coef(R), out(R * n);
  for (int64_t s = begin; s < end; ++s) {
    const int64_t count = rows_in_strip<T>(n, s);
    for (int64_t t = 0; t * R < n; ++t) {
      const int64_t width = rows_in_strip<T>(n, t);
      const PairRange range{s, s + 1, t, t + 1, false};
      pair_values<T>(range, job.difference_strips, job.z_strips, s, s + 1, tile);
      transpose_tile<T>(tile, turned);
      for (int64_t r = 0; r < count; ++r) {
        load_coef<T>(job.coef, s * R + r, t * R, width, coef);
        T* row = out + r * n + t * R;
        for (int64_t c = 0; c < width; ++c) {
          const T slope = job.absolute ? T(coef[c] > 0) - T(coef[c] < 0) : 2 * coef[c];
          row[c] = job.grad_size * slope - job.grad * turned[r * R + c];
        }
        if (s == t) row[r] = 0;
      }
    }
    for (int64_t r = 0; r < count; ++r) store_row<T>(job.grad_coef, s * R + r, out + r * n);
  }
}

// dZ = g (E − C̃ᵀE) with E = Z − C̃Z: columns of C are lanes.
template <class T>
static void self_expression_rows(const SelfExpression<T>& job, int64_t begin, int64_t end) {
  constexpr int64_t R = kStrip<T>;
  const int64_t n = job.n, p = job.p;
  const T* difference = job.difference_strips.rows;
  Buffer<T> lanes(kCoefColumns * R), product(p * R), rows(R * p);
  for (int64_t s = begin; s < end; ++s) {
    const int64_t count = rows_in_strip<T>(n, s);
    std::fill(product + 0, product + p * R, T(0));
    std::fill(lanes + 0, lanes + kCoefColumns * R, T(0));
    for (int64_t i = 0; i < n; i += kCoefColumns) {
      const int64_t length = std::min(kCoefColumns, n - i);
      for (int64_t r = 0; r < length; ++r) load_coef<T>(job.coef, i + r, s * R, count, lanes + r * R);
      strip_product<T>(lanes, R, difference + i * p, p, p, length, product, true);
    }
    lanes_to_rows<T>(product, p, count, rows, p);
    for (int64_t r = 0; r < count; ++r) {
      T* row = rows + r * p;
      for (int64_t c = 0; c < p; ++c) row[c] = job.grad * (difference[(s * R + r) * p + c] - row[c]);
      store_row<T>(job.grad_z, s * R + r, row);
    }
  }
}

}  // namespace desc_ext::cpu::DESC_EXT_ISA
