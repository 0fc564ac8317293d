// The CPU kernels behind the operators, as tables of function pointers: one table for each instruction set and
// compute type. Nothing here depends on torch or on the instruction set, so that both sides can include it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace desc_ext::cpu {

// Scratch of a thread, aligned to a cache line and not initialised. It is given back by the thread that took it, before
// its call ends. A thread keeps some of it from call to call: the heap took a third of the time of a small call.
void* take_scratch(size_t bytes);
void give_scratch(void* pointer) noexcept;

// How the elements of an array lie in memory. Arithmetic is in double for f64, in float for all others.
enum class Storage : int { f32, f64, f16, bf16 };

// A row-major array [n, columns]; `index`, when given, says which row stands at position i.
struct Rows {
  const void* data;
  Storage storage;
  int64_t columns;
  const int64_t* index = nullptr;
};

struct MutableRows {
  void* data;
  Storage storage;
  int64_t columns;
  const int64_t* index = nullptr;
};

enum class Metric : int { energy, residual };

// K bases of d columns in R^p, prepared for one metric so that it is diagonal in the coefficients,
// value_k(z) = Σ_c scale_kc (s̃_kcᵀ z)² with S̃_k = S_k T_k. For the energy T = I and scale = 1; for the residual
// 2I − S_kᵀS_k = T_k diag(scale) T_kᵀ and r = ‖z‖² − value.
template <class T>
struct Bases {
  int64_t K, p, d, stride;  // stride: p rounded up to whole vectors
  Rows source;              // [K·p, d] S_k as they were given
  const T* panels;          // S̃ packed for the panel product, see tile.h
  const T* back_panels;     // S̃ diag(scale) packed the other way, for gradients of z; null where these are not wanted
  const T* scale;           // [K·d]
  const double* factor;     // [K, d, whole vectors] T_k, for gradients of the bases: null where these are not wanted
  const double* inverse;    // the same of T_k⁻¹
  // For TileTable, in place of the panels: the same as parts in bfloat16, see isa/matrix_tiles.h.
  int parts = 0;
  const uint32_t* tiles = nullptr;
  const uint32_t* back_tiles = nullptr;
};

// Where prepare_bases puts what Bases describes; null where it is not wanted.
template <class T>
struct BasisLayouts {
  int64_t K, p, d, stride;
  Rows source;
  Metric metric;
  T *panels = nullptr, *back_panels = nullptr, *scale = nullptr;
  double *factor = nullptr, *inverse = nullptr;
  int parts = 0;
  uint32_t *tiles = nullptr, *back_tiles = nullptr;
  bool* in_range = nullptr;  // [K] whether the parts of a basis are its numbers: not where one is infinite, NaN or huge
};

// Rows of a partial sum of a weighted loss: a strip or more, so that no two threads have one between them.
inline constexpr int64_t kRowsOfASum = 32;

// One pass over rows [begin, end) of z; any output that is null is not computed.
template <class T>
struct ProjectionForward {
  Rows z;
  Bases<T> bases;
  Metric metric;
  T* values = nullptr;        // [n, K] energies or residuals
  int64_t* labels = nullptr;  // [n] best subspace, with best [n]
  T* best = nullptr;
  const T* weight = nullptr;         // [n, K]: adds Σ weight·value of row i to sum[i / kRowsOfASum]
  const T* sample_weight = nullptr;  // [n] H of the soft assignment (null: 1)
  T* assignment = nullptr;           // [n, K] w of the soft assignment, with total [n] = Σ_k (H e + smoothing)
  T* total = nullptr;
  T smoothing = 0;
};

// Gradients for upstream weights g_ik = (grad_ik − shift_i) · factor_i of the values.
template <class T>
struct ProjectionBackward {
  Rows z;
  Bases<T> bases;
  Metric metric;
  const T* grad;  // [n, K]
  T grad_factor = 1;
  const T* assignment = nullptr;  // soft assignment: shift_i = Σ_k grad_ik w_ik, factor_i = H_i / total_i
  const T* total = nullptr;
  const T* sample_weight = nullptr;
  MutableRows dz{nullptr, Storage::f32, 0};  // data null: not asked for
  T* values = nullptr;                       // [n, K] the values again (gradient of a weighted sum), times grad_factor
};

// Gradients where each row has one basis: rows are taken by label, upstream grad [n].
template <class T>
struct OwnBasisBackward {
  Rows z;  // with an index
  int64_t d;
  Metric metric;
  const T* columns;  // [K·d, stride] columns of S_k as rows
  const T* grad;
  MutableRows dz{nullptr, Storage::f32, 0};  // data null: not asked for
};

template <class T>
struct StudentT {
  Rows z;
  int64_t K;
  int64_t stride;
  const T* rows;         // centroids [K, stride]
  const T* panels;       // the same packed for the panel product
  const T* back_panels;  // their transposes (backward)
  T dof;
  T* q = nullptr;              // forward: [n, K]
  const T* saved_q = nullptr;  // backward
  const T* grad = nullptr;
  MutableRows dz{nullptr, Storage::f32, 0};
};

template <class T>
struct Table {
  int lanes;  // elements of one vector
  // Packs rows source[c][0..length) (row stride `stride`) as panels of at most the register tile's columns, into
  // columns · length elements; the columns of one group of `group` stay together as far as they fit.
  void (*pack_panels)(const T* source, int64_t stride, int64_t columns, int64_t length, int64_t group, T* out);
  // The same panels for the transposed source: column j of length `length` is source[·][j], times scale[·] if given.
  void (*pack_transposed)(const T* source, int64_t stride, const T* scale, int64_t columns, int64_t length, T* out);
  // Reads `count` rows into [count, stride] with zero padding.
  void (*load_rows)(const Rows& rows, int64_t begin, int64_t count, int64_t stride, T* out);
  void (*store_row)(const MutableRows& rows, int64_t position, const T* row);
  bool (*one_basis_a_panel)(int64_t K, int64_t d);  // whether bases as they lie in memory are the panels
  void (*prepare_bases)(const BasisLayouts<T>&, int64_t begin, int64_t end);  // of bases [begin, end)
  void (*projection_forward)(const ProjectionForward<T>&, int64_t begin, int64_t end, double* sum);
  // Puts Σ_i g_ik (s̃_kcᵀ z_i) z_i into basis_sum [K·d, stride] (when not null).
  void (*projection_backward)(const ProjectionBackward<T>&, int64_t begin, int64_t end, T* basis_sum);
  // Rows at positions [begin, end) against basis k; adds to basis_sum [d, stride] of it (when not null) the gradient.
  void (*own_basis_backward)(const OwnBasisBackward<T>&, int64_t k, int64_t begin, int64_t end, T* basis_sum);
  // Copies rows [p, d] to zero-padded columns [d, stride], and back.
  void (*rows_to_columns)(const T* rows, int64_t p, int64_t d, int64_t stride, T* columns);
  void (*columns_to_rows)(const T* columns, int64_t p, int64_t d, int64_t stride, T* rows);
  // What block orthogonality takes of a basis, see basis_kernels.h; in double for any T.
  void (*basis_gram)(const Rows& source, int64_t k, int64_t p, int64_t d, double* columns, double* gram);
  void (*basis_product)(const Rows& source, int64_t k, int64_t p, int64_t d, const double* columns,
                        const double* matrix, double factor, const MutableRows& out);
  // dS_k [p, d] from B̃_k = basis_sum of basis k.
  void (*basis_gradient)(const Bases<T>&, Metric, int64_t k, const T* basis_sum, MutableRows out);
  void (*student_t_forward)(const StudentT<T>&, int64_t begin, int64_t end);
  // Adds Σ_i h_ik z_i to centroid_sum [K, stride] and Σ_i h_ik to weight_sum [K].
  void (*student_t_backward)(const StudentT<T>&, int64_t begin, int64_t end, T* centroid_sum, double* weight_sum);
  // Adds Σ_i weight_i z_i z_iᵀ of positions [begin, end) to the upper triangle of gram [p, stride], in blocks.
  void (*gram)(const Rows& z, const T* weight, int64_t begin, int64_t end, int64_t stride, T* gram);
  // out_i = weight_i · matrix z_i for a matrix packed as panels; dot_i = z_iᵀ matrix z_i. Each may be null.
  void (*rows_times)(const Rows& z, const T* weight, const T* panels, int64_t begin, int64_t end, MutableRows out,
                     T* dot);
};

// The projection family for float by products of tiles of bfloat16 numbers. Sizes are in words of `tiles`.
struct TileTable {
  bool (*worth)(int64_t K, int64_t p, int64_t d);  // by shape alone, never by n, on which no bit may depend
  int64_t (*tiles_size)(int64_t K, int64_t p, int64_t d, int parts);
  int64_t (*back_tiles_size)(int64_t K, int64_t p, int64_t d, int parts);
  void (*prepare_bases)(const BasisLayouts<float>&, int64_t begin, int64_t end);
  void (*projection_forward)(const ProjectionForward<float>&, int64_t begin, int64_t end, double* sum);
  void (*projection_backward)(const ProjectionBackward<float>&, int64_t begin, int64_t end, float* basis_sum);
};

const TileTable* tile_table();  // null where the instruction set in use has none
const Table<float>& float_table();
const Table<double>& double_table();
template <class T>
const Table<T>& table();
template <>
inline const Table<float>& table<float>() {
  return float_table();
}
template <>
inline const Table<double>& table<double>() {
  return double_table();
}

}  // namespace desc_ext::cpu
