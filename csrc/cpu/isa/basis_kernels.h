// What is done once for each basis S_k [p, d]: the columns that make its residual a weighted sum of squares, their
// layouts for the kernels, and the gradient of the basis. Arithmetic is in double, on rows of the basis as they lie in
// memory: d coefficients stand in the lanes of a vector. Operations: 4·p·d² a basis forward, 10·p·d² backward.
//
// With M = 2I − SᵀS, ‖z − S Sᵀz‖² = ‖z‖² − aᵀMa for a = Sᵀz. Any M = T diag(scale) Tᵀ gives the sum of squares
// Σ scale (s̃ᵀz)² with S̃ = S T. Bases in training are nearly orthonormal, M is nearly I, and T is the unit lower
// triangle of M = L D Lᵀ; where a pivot is small, rotations that make M diagonal (Jacobi). The basis alone decides,
// never the number of rows, so that a row's residuals do not depend on the rows beside it. One thread with AVX-512, all
// bases of (p, K, d) = (128, 100, 8): 0.9 ms by rotations, 0.09 ms by triangles, 0.08 ms for the product with 64 rows.
#pragma once

#include <cmath>
#include <limits>

#include "tile.h"

namespace desc_ext::cpu::DESC_EXT_ISA {

// Pivots of M down to this are taken: columns of S̃ are then at most √(2/0.25) times as long as those of S.
inline constexpr double kLeastPivot = 0.25;
inline constexpr int kLanesWide = kLanes<double>;

static inline int64_t whole_vectors(int64_t d) { return (d + kLanesWide - 1) / kLanesWide * kLanesWide; }

// A matrix [rows, d] in double, with room behind it for whole vectors.
struct Wide : Buffer<double> {
  int64_t d;
  Wide(int64_t rows, int64_t columns) : Buffer<double>(rows * columns + kLanesWide), d(columns) {
    for (int i = 0; i < kLanesWide; ++i) (*this)[rows * columns + i] = 0;
  }
  double* data() const { return *this; }
  const double* row(int64_t j) const { return static_cast<double*>(*this) + j * d; }
};

// out[a][c] = Σ_j x[j][a] y[j][c] for C columns a and one vector of columns c; out has rows of `wide`.
template <int C>
static void cross_tile(const double* x, const double* y, int64_t d, int64_t p, double* out, int64_t wide) {
  Vector<double> even[C], odd[C];
  DESC_EXT_UNROLL
  for (int a = 0; a < C; ++a) even[a] = odd[a] = Vector<double>{};
  int64_t j = 0;
  for (; j + 2 <= p; j += 2, x += 2 * d, y += 2 * d) {
    const Vector<double> first = load(y), second = load(y + d);
    DESC_EXT_UNROLL
    for (int a = 0; a < C; ++a) even[a] += first * x[a], odd[a] += second * x[d + a];
  }
  if (j < p) {
    const Vector<double> first = load(y);
    DESC_EXT_UNROLL
    for (int a = 0; a < C; ++a) even[a] += first * x[a];
  }
  DESC_EXT_UNROLL
  for (int a = 0; a < C; ++a) store(out + a * wide, Vector<double>(even[a] + odd[a]));
}

// out [d, wide] = xᵀ y.
static inline void cross(const Wide& x, const Wide& y, int64_t p, double* out) {
  const int64_t d = x.d, wide = whole_vectors(d);
  for (int64_t a = 0; a < d;) {
    const int64_t width = d - a >= 4 ? 4 : d - a >= 2 ? 2 : 1;
    const auto tile = width == 4 ? cross_tile<4> : width == 2 ? cross_tile<2> : cross_tile<1>;
    for (int64_t c = 0; c < wide; c += kLanesWide) tile(x.row(0) + a, y.row(0) + c, d, p, out + a * wide + c, wide);
    a += width;
  }
}

// N rows of x times m [d, wide], which share the loads of m; to out [N, d], or added to it.
template <int N, bool add>
static void times_tile(const double* x, int64_t d, const double* m, int64_t wide, double* out) {
  for (int64_t c = 0; c < wide; c += kLanesWide) {
    const int64_t here = std::min<int64_t>(kLanesWide, d - c);
    Vector<double> sum[N];
    DESC_EXT_UNROLL
    for (int r = 0; r < N; ++r) sum[r] = add ? load_first(out + r * d + c, here) : Vector<double>{};
    for (int64_t a = 0; a < d; ++a) {
      const Vector<double> row = load(m + a * wide + c);
      DESC_EXT_UNROLL
      for (int r = 0; r < N; ++r) sum[r] += row * x[r * d + a];
    }
    DESC_EXT_UNROLL
    for (int r = 0; r < N; ++r) store_first(out + r * d + c, sum[r], here);
  }
}

// out [p, d] (+)= x m for x [p, d] and m [d, wide].
template <bool add>
static void times(const Wide& x, int64_t p, const double* m, double* out) {
  const int64_t d = x.d, wide = whole_vectors(d);
  int64_t j = 0;
  for (; j + 4 <= p; j += 4) times_tile<4, add>(x.row(j), d, m, wide, out + j * d);
  for (; j < p; ++j) times_tile<1, add>(x.row(j), d, m, wide, out + j * d);
}

// Cyclic Jacobi: the symmetric m [d, d] becomes diagonal, rotation [d, d] gets the eigenvectors as columns. Chosen for
// its accuracy; d is small.
static inline void jacobi(double* m, double* rotation, int64_t d, double tolerance) {
  double norm = 0;
  for (int64_t i = 0; i < d * d; ++i) norm += m[i] * m[i], rotation[i] = 0;
  for (int64_t i = 0; i < d; ++i) rotation[i * d + i] = 1;
  const double small = tolerance * std::sqrt(norm) / double(d);
  bool done = !(norm < std::numeric_limits<double>::infinity());
  for (int sweep = 0; sweep < 40 && !done; ++sweep) {
    done = true;
    for (int64_t a = 0; a < d; ++a)
      for (int64_t b = a + 1; b < d; ++b) {
        const double off = m[a * d + b];
        if (!(std::fabs(off) > small)) continue;
        done = false;
        const double theta = (m[b * d + b] - m[a * d + a]) / (2 * off);
        const double t = (theta < 0 ? -1 : 1) / (std::fabs(theta) + std::sqrt(theta * theta + 1));
        const double c = 1 / std::sqrt(t * t + 1), s = t * c;
        for (int64_t i = 0; i < d; ++i) {
          const double x = m[i * d + a], y = m[i * d + b];
          m[i * d + a] = c * x - s * y;
          m[i * d + b] = s * x + c * y;
          const double u = rotation[i * d + a], v = rotation[i * d + b];
          rotation[i * d + a] = c * u - s * v;
          rotation[i * d + b] = s * u + c * v;
        }
        for (int64_t i = 0; i < d; ++i) {
          const double x = m[a * d + i], y = m[b * d + i];
          m[a * d + i] = c * x - s * y;
          m[b * d + i] = s * x + c * y;
        }
        m[a * d + b] = m[b * d + a] = 0;
      }
  }
}

// M = L D Lᵀ of m [d, wide]: factor [d, wide] gets the unit lower triangle L, m keeps D in its diagonal. False where a
// pivot is less than kLeastPivot, or NaN.
static inline bool triangular_factor(double* m, double* factor, int64_t d, int64_t wide) {
  std::fill(factor, factor + d * wide, 0.0);
  for (int64_t c = 0; c < d; ++c) {
    const double* row = m + c * wide;
    const double pivot = row[c];
    if (!(pivot >= kLeastPivot)) return false;
    const double inverse = 1 / pivot;
    factor[c * wide + c] = 1;
    for (int64_t a = c + 1; a < d; ++a) {
      const double share = row[a] * inverse;
      factor[a * wide + c] = share;
      for (int64_t b = c / kLanesWide * kLanesWide; b < wide; b += kLanesWide)
        store(m + a * wide + b, Vector<double>(load(m + a * wide + b) - load(row + b) * share));
    }
  }
  return true;
}

// The inverse of a unit lower triangle; rows of both are padded to `wide`.
static inline void invert_triangle(const double* factor, double* inverse, int64_t d, int64_t wide) {
  for (int64_t a = 0; a < d; ++a)
    for (int64_t v = 0; v < wide; v += kLanesWide) {
      Vector<double> x{};
      if (a >= v && a < v + kLanesWide) x[a - v] = 1;
      for (int64_t b = v; b < a; ++b) x -= load(inverse + b * wide + v) * factor[a * wide + b];
      store(inverse + a * wide + v, x);
    }
}

// T and, where asked for, T⁻¹ [d, wide] of a basis, with the scale of its columns.
template <class T>
static void diagonalise(const Wide& basis, int64_t p, T* scale, double* factor, double* inverse) {
  const int64_t d = basis.d, wide = whole_vectors(d);
  Buffer<double> gram(d * wide), m(d * wide);
  cross(basis, basis, p, gram);
  for (int64_t i = 0; i < d * wide; ++i) m[i] = -gram[i];
  for (int64_t a = 0; a < d; ++a) m[a * wide + a] += 2;
  const bool triangular = triangular_factor(m, factor, d, wide);
  if (!triangular) {
    Buffer<double> rotation(d * d);
    for (int64_t a = 0; a < d; ++a)
      for (int64_t b = 0; b < d; ++b) m[a * d + b] = (a == b ? 2.0 : 0.0) - gram[a * wide + b];
    jacobi(m, rotation, d, double(std::numeric_limits<T>::epsilon()) / 64);
    for (int64_t a = 0; a < d; ++a)
      for (int64_t c = 0; c < wide; ++c) factor[a * wide + c] = c < d ? rotation[a * d + c] : 0;
  }
  for (int64_t c = 0; c < d; ++c) scale[c] = T(m[c * (triangular ? wide : d) + c]);
  if (!inverse) return;
  if (triangular) return invert_triangle(factor, inverse, d, wide);
  for (int64_t a = 0; a < d; ++a)
    for (int64_t b = 0; b < wide; ++b) inverse[a * wide + b] = b < d ? factor[b * wide + a] : 0;
}

// Rows [p, d] as they are stored, in T: where they lie, or copied to `buffer`.
template <class T>
static const T* basis_rows(const Rows& source, int64_t k, int64_t elements, T* buffer) {
  constexpr Storage own = sizeof(T) == 8 ? Storage::f64 : Storage::f32;
  if (source.storage == own) return static_cast<const T*>(source.data) + k * elements;
  load_row(Rows{source.data, source.storage, elements}, k, buffer);
  return buffer;
}

// Rows [p, d] to columns [d, stride], with zeros behind p. Loops are unrolled so that the square stays in registers.
template <class T>
static void rows_to_columns(const T* rows, int64_t p, int64_t d, int64_t stride, T* columns) {
  constexpr int L = kLanes<T>;
  for (int64_t j = 0; j < stride; j += L)
    for (int64_t c = 0; c < d; c += L) {
      Vector<T> square[L];
      const int64_t width = std::min<int64_t>(L, d - c), here = std::min<int64_t>(L, stride - j);
      DESC_EXT_UNROLL
      for (int r = 0; r < L; ++r) square[r] = j + r < p ? load_first(rows + (j + r) * d + c, width) : Vector<T>{};
      transpose_square<T>(square);
      DESC_EXT_UNROLL
      for (int x = 0; x < L; ++x)
        if (x < width) store_first(columns + (c + x) * stride + j, square[x], here);
    }
}

// Columns [d, stride] to rows [p, d].
template <class T>
static void columns_to_rows(const T* columns, int64_t p, int64_t d, int64_t stride, T* rows) {
  constexpr int L = kLanes<T>;
  for (int64_t j = 0; j < p; j += L)
    for (int64_t c = 0; c < d; c += L) {
      Vector<T> square[L];
      const int64_t width = std::min<int64_t>(L, d - c), here = std::min<int64_t>(L, p - j);
      DESC_EXT_UNROLL
      for (int x = 0; x < L; ++x)
        square[x] = x < width ? load_first(columns + (c + x) * stride + j, here) : Vector<T>{};
      transpose_square<T>(square);
      DESC_EXT_UNROLL
      for (int r = 0; r < L; ++r)
        if (r < here) store_first(rows + (j + r) * d + c, square[r], width);
    }
}

// Columns of basis k in the panels of panel_product.
template <class T>
static void store_panels(const T* rows, const BasisLayouts<T>& to, int64_t k) {
  constexpr int64_t L = kLanes<T>;
  const PanelCut cut(to.K * to.d, to.d);
  const int64_t p = to.p, d = to.d;
  if (cut.wide == d) return void(std::copy(rows, rows + p * d, to.panels + k * p * d));
  for (int64_t c = k * d; c < (k + 1) * d;) {
    const int64_t start = cut.start(c), width = cut.width(start), here = std::min(start + width, (k + 1) * d) - c;
    T* panel = to.panels + start * p + (c - start);
    const T* from = rows + (c - k * d);
    for (int64_t j = 0; j < p; ++j)
      for (int64_t x = 0; x < here; x += L) {
        const int64_t count = std::min(L, here - x);
        store_first(panel + j * width + x, load_first(from + j * d + x, count), count);
      }
    c += here;
  }
}

// S̃ diag(scale) in the panels over the p columns of z.
template <class T>
static void store_back_panels(const T* columns, const BasisLayouts<T>& to, int64_t k) {
  constexpr int L = kLanes<T>;
  const PanelCut cut(to.p, to.p);
  const int64_t length = to.K * to.d;
  for (int64_t j = 0; j < to.p;) {
    const int64_t width = cut.width(j);
    T* panel = to.back_panels + j * length + k * to.d * width;
    for (int64_t c = 0; c < to.d; ++c)
      for (int64_t x = 0; x < width; x += L) {
        const int64_t here = std::min<int64_t>(L, width - x);
        store_first(panel + c * width + x,
                    Vector<T>(load_first(columns + c * to.stride + j + x, here) * to.scale[k * to.d + c]), here);
      }
    j += width;
  }
}

// Whether bases [p, d] in a row, as they lie in memory, are the panels already.
static inline bool one_basis_a_panel(int64_t K, int64_t d) { return PanelCut(K * d, d).wide == d; }

// Where a prepared basis, rows [p, d], goes; columns [d, stride] is scratch.
template <class T>
struct Panels {
  static void store(const T* rows, const BasisLayouts<T>& to, int64_t k, T* columns) {
    if (to.panels) store_panels(rows, to, k);
    if (!to.back_panels) return;
    rows_to_columns(rows, to.p, to.d, to.stride, columns);
    store_back_panels(static_cast<const T*>(columns), to, k);
  }
};

template <class T, class Layout = Panels<T>>
static void prepare_bases(const BasisLayouts<T>& to, int64_t begin, int64_t end) {
  const int64_t p = to.p, d = to.d, wide = whole_vectors(d);
  Buffer<T> copy(p * d), rotated(p * d), columns(d * to.stride);
  Wide basis(p, d);
  Buffer<double> own_factor(d * wide), product(p * d);
  for (int64_t k = begin; k < end; ++k) {
    const T* rows = basis_rows<T>(to.source, k, p * d, copy);
    if (to.metric == Metric::residual) {
      double* factor = to.factor ? to.factor + k * d * wide : own_factor;
      for (int64_t i = 0; i < p * d; ++i) basis[i] = double(rows[i]);
      diagonalise<T>(basis, p, to.scale + k * d, factor, to.inverse ? to.inverse + k * d * wide : nullptr);
      times<false>(basis, p, factor, product);
      for (int64_t i = 0; i < p * d; ++i) rotated[i] = T(product[i]);
      rows = rotated;
    } else {
      std::fill(to.scale + k * d, to.scale + (k + 1) * d, T(1));
    }
    Layout::store(rows, to, k, static_cast<T*>(columns));
  }
}

// With B = Σ g z aᵀ, dS = 2B for the energy. For the residual dS = −2BM + 2S(SᵀB), from B̃ = BT, the sum that was made:
// −2 B̃ diag(scale) Tᵀ + 2 S (SᵀB̃ T⁻¹).
template <class T>
static void basis_gradient(const Bases<T>& bases, Metric metric, int64_t k, const T* basis_sum, MutableRows out) {
  const int64_t d = bases.d, p = bases.p, stride = bases.stride, wide = whole_vectors(d);
  Buffer<T> result(p * d);
  columns_to_rows<T>(basis_sum, p, d, stride, result);
  if (metric == Metric::energy) {
    for (int64_t i = 0; i < p * d; ++i) result[i] *= 2;
  } else {
    Wide sum(p, d);
    for (int64_t i = 0; i < p * d; ++i) sum[i] = double(result[i]);
    const double *factor = bases.factor + k * d * wide, *inverse = bases.inverse + k * d * wide;
    const T* scale = bases.scale + k * d;
    Buffer<T> copy(p * d);
    const T* rows = basis_rows<T>(bases.source, k, p * d, copy);
    Wide basis(p, d);
    for (int64_t i = 0; i < p * d; ++i) basis[i] = double(rows[i]);
    Buffer<double> inner(d * wide), by_sum(d * wide), by_basis(d * wide), product(p * d);
    cross(basis, sum, p, inner);  // SᵀB̃
    for (int64_t c = 0; c < d; ++c)
      for (int64_t a = 0; a < wide; ++a) {
        by_sum[c * wide + a] = a < d ? -2 * double(scale[c]) * factor[a * wide + c] : 0;
        double x = 0;
        for (int64_t e = 0; a < d && e < d; ++e) x += inner[c * wide + e] * inverse[e * wide + a];
        by_basis[c * wide + a] = 2 * x;
      }
    times<false>(sum, p, by_sum, product);
    times<true>(basis, p, by_basis, product);
    for (int64_t i = 0; i < p * d; ++i) result[i] = T(product[i]);
  }
  store_row<T>(MutableRows{out.data, out.storage, p * d}, k, result);
}

// ---- for block orthogonality, in double -----------------------------------------------------------------------------

// Columns [d, p] of basis k, and its Gram matrix [d, d].
template <class T>
static void basis_gram(const Rows& source, int64_t k, int64_t p, int64_t d, double* columns, double* gram) {
  const int64_t wide = whole_vectors(d);
  Buffer<double> padded(d * wide);
  Wide basis(p, d);
  load_row(Rows{source.data, source.storage, p * d}, k, basis.data());
  cross(basis, basis, p, padded);
  for (int64_t a = 0; a < d; ++a) std::copy(padded + a * wide, padded + a * wide + d, gram + a * d);
  rows_to_columns<double>(basis, p, d, p, columns);
}

// out_k = factor (columnsᵀ + S_k matrix) for columns [d, p] and a matrix [d, d].
template <class T>
static void basis_product(const Rows& source, int64_t k, int64_t p, int64_t d, const double* columns,
                          const double* matrix, double factor, const MutableRows& out) {
  const int64_t wide = whole_vectors(d);
  Buffer<double> padded(d * wide), result(p * d);
  Wide basis(p, d);
  load_row(Rows{source.data, source.storage, p * d}, k, basis.data());
  for (int64_t a = 0; a < d; ++a)
    for (int64_t c = 0; c < wide; ++c) padded[a * wide + c] = c < d ? matrix[a * d + c] : 0;
  columns_to_rows<double>(columns, p, d, p, result);
  times<true>(basis, p, padded, result);
  for (int64_t i = 0; i < p * d; ++i) result[i] *= factor;
  store_row<double>(MutableRows{out.data, out.storage, p * d}, k, result);
}

}  // namespace desc_ext::cpu::DESC_EXT_ISA
