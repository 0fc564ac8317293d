// The CPU kernels of the self-expression and pairwise families, as a table of function pointers beside that of
// kernels.h: what they read and write.
//
// Rows are packed once into strips [⌈n / strip⌉][p][strip], zero-padded, which serve both sides of a product. A kernel
// works on a pair of blocks of strips (first, second): it owns all that is kept for the rows of either, so that pairs
// of disjoint blocks may run at the same time. Where the pairs are those of one set of rows, first ≤ second, and each
// pair of rows is visited once for both its orders.
#pragma once

#include "kernels.h"

namespace desc_ext::cpu {

template <class T>
struct Strips {
  const T* data;  // [⌈n / strip⌉][p][strip]
  const T* rows;  // [n, p], the same values; null where only products of rows with rows are wanted
  int64_t n, p;
  // The rows of each block as panels over the p columns, block after block: for sums of rows; null as `rows`.
  const T* panels = nullptr;
};

struct BlockPair {
  int64_t first, second;
  int64_t strips;  // strips of a block
};

// The k largest |value_ij| of every row i, j ≠ i: of y_i·y_j, or, where `scale` is given, of y_i·y_j (s_i + s_j)/2.
template <class T>
struct PairSelection {
  Strips<T> y;
  const T* scale;
  int64_t k;
  T* values;         // [n, k], signed, by decreasing size
  int64_t* indices;  // [n, k], −1 where nothing has been found yet
};

// Sums over ordered pairs i ≠ j of the collaborative loss; those with `grad_*` null are for the forward pass.
template <class T>
struct Collaboration {
  Strips<T> y, prediction;
  const T *scale, *inverse_max;  // [n] 1/(1 − ‖y_i‖²) and 1/row_max, padded to whole strips
  T upper, lower, apart;
  double* sums = nullptr;     // [blocks, 3]
  int64_t* counts = nullptr;  // [blocks, 3]
  // backward: factors of the three sums, and what is added up; gradients are in strips
  T grad[3] = {};
  bool soft = false;
  T* grad_prediction = nullptr;
  // These three together; [n] the last two, of 1/(1−h) and of row_max.
  T *grad_y = nullptr, *grad_scale = nullptr, *grad_max = nullptr;
};

template <class T>
struct LaplacianEnergy {
  Strips<T> z, features;
  T rate;                  // 1 / bandwidth
  double* sums = nullptr;  // [blocks]
  T grad = 0;
  T *grad_z = nullptr, *grad_features = nullptr;      // strips: Σ_j weight_ij x_j
  T *weight_z = nullptr, *weight_features = nullptr;  // [n]: Σ_j weight_ij
};

// Rows of z and g of unit length; the log-sum-exp of a row is kept as its largest cosine and the sum over that.
template <class T>
struct InfoNce {
  Strips<T> z, g;
  T inverse_temperature;
  T *largest = nullptr, *sum = nullptr, *matched = nullptr;  // [n] each
  const T* log_sum = nullptr;                                // [n]
  T grad = 0;                                                // over n
  T *grad_z = nullptr, *grad_g = nullptr;                    // strips, of the unit rows
};

// A learned C of one batch element: rows of Z − C̃Z, C̃ being C with diagonal 0, and gradients.
template <class T>
struct SelfExpression {
  Rows coef;   // [n, n]
  const T* z;  // [n, p]
  int64_t n, p;
  bool absolute;                               // the size of C is ‖C‖₁, else ‖C‖²
  T* difference = nullptr;                     // [n, p] Z − C̃Z
  double *squared = nullptr, *size = nullptr;  // a strip each
  T grad = 0, grad_size = 0;
  Strips<T> z_strips{}, difference_strips{};  // for dC
  MutableRows grad_coef{nullptr, Storage::f32, 0};
  MutableRows grad_z{nullptr, Storage::f32, 0};
};

template <class T>
struct PairTable {
  int strip;
  // Strips [begin, end) of ((row − offset) · scale_i); `rows` as in Strips, where not null. Each of the last two may be
  // null.
  void (*pack_strips)(const Rows& z, const T* offset, const T* scale, int64_t n, int64_t begin, int64_t end, T* strips,
                      T* rows);
  // Rows of strip s from its lanes [p][strip].
  void (*unpack_strip)(const T* lanes, int64_t p, int64_t count, T* rows);
  void (*select)(const PairSelection<T>&, const BlockPair&);
  void (*collaborate)(const Collaboration<T>&, const BlockPair&);
  void (*collaborate_backward)(const Collaboration<T>&, const BlockPair&);
  void (*laplacian)(const LaplacianEnergy<T>&, const BlockPair&);
  void (*laplacian_backward)(const LaplacianEnergy<T>&, const BlockPair&);
  void (*info_nce)(const InfoNce<T>&, const BlockPair&);
  void (*info_nce_backward)(const InfoNce<T>&, const BlockPair&);
  // Strips [begin, end) of rows, rows of the gradient of C, and columns of it.
  void (*self_expression)(const SelfExpression<T>&, int64_t begin, int64_t end);
  void (*self_expression_coef)(const SelfExpression<T>&, int64_t begin, int64_t end);
  void (*self_expression_rows)(const SelfExpression<T>&, int64_t begin, int64_t end);
  // Of rows [begin, end): Σ_j |z_ij|, and factor Σ_j |z_ij| sign(z_ij).
  void (*absolute_sums)(const Rows& z, int64_t begin, int64_t end, T* sums);
  void (*signed_sums)(const Rows& z, T factor, int64_t begin, int64_t end, MutableRows out);
};

const PairTable<float>& float_pair_table();
const PairTable<double>& double_pair_table();
template <class T>
const PairTable<T>& pair_table();
template <>
inline const PairTable<float>& pair_table<float>() {
  return float_pair_table();
}
template <>
inline const PairTable<double>& pair_table<double>() {
  return double_pair_table();
}

}  // namespace desc_ext::cpu
