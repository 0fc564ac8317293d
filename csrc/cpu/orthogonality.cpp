// Block orthogonality ‖SᵀS ⊙ I − I‖² + ‖SᵀS ⊙ O‖² on the CPU, in float64 whatever the bases are stored in.
//
// S = [S_1 … S_K] in R^{p×Kd}, G_k = S_kᵀS_k. The off-diagonal blocks of SᵀS hold ‖SᵀS‖² − Σ_k ‖G_k‖². When Kd > p,
// ‖SᵀS‖² is taken from the p×p matrix as ‖SSᵀ‖²: linear in K, and no Kd×Kd array. That difference cancels where the
// blocks are nearly orthogonal, hence float64: its error is 1e-16 ‖SSᵀ‖².
#include "segments.h"

namespace desc_ext::cpu {

static const char* kPenalty = "block_orthogonality_penalty";

struct BlockGram {
  int64_t K, p, d;
  bool tall;            // K·d ≤ p
  Tensor rows;          // float64: S [p, Kd] when tall, else Sᵀ [Kd, p]
  Tensor gram;          // float64: rowsᵀ rows, so SᵀS when tall, else SSᵀ
  Array<double> block;  // [K, d, d] G_k

  explicit BlockGram(const Tensor& bases)
      : K(bases.size(0)), p(bases.size(1)), d(bases.size(2)), tall(K * d <= p),
        rows(empty_of(bases, {tall ? p : K * d, tall ? K * d : p}, ScalarType::Double)),
        gram(empty_of(bases, {rows.size(1), rows.size(1)}, ScalarType::Double)), block(K * d * d) {
    const Tensor dense = as_contiguous(bases);
    const Rows source = rows_of(dense);
    for_each_task(K, [&](int64_t k) { load_basis(source, k); });
    segment_grams<double>(rows, nullptr, Segments(rows.size(0)), mutable_data<double>(gram));
  }

  int64_t element(int64_t k, int64_t j, int64_t c) const { return tall ? j * K * d + k * d + c : (k * d + c) * p + j; }

 private:
  void load_basis(const Rows& source, int64_t k) {
    const int64_t wide = padded<double>(d);
    Array<double> basis(p * wide);
    table<double>().load_rows(source, k * p, p, wide, basis);
    double *g = block + k * d * d, *to = mutable_data<double>(rows);
    std::fill(g, g + d * d, 0.0);
    for (int64_t j = 0; j < p; ++j) {
      const double* row = basis + j * wide;
      for (int64_t a = 0; a < d; ++a) {
        to[element(k, j, a)] = row[a];
        for (int64_t b = 0; b < d; ++b) g[a * d + b] += row[a] * row[b];
      }
    }
  }
};

// What is asked of G_k inside its block, less what it is: entries that neither term asks for are 0.
static double block_excess(const BlockGram& s, bool orthonormal, int64_t k, int64_t a, int64_t b) {
  if (!orthonormal && a != b) return 0;
  return s.block[(k * s.d + a) * s.d + b] - (a == b ? 1.0 : 0.0);
}

static Tensor penalty(const Tensor& bases, std::string within) {
  const bool orthonormal = asks_orthonormal(kPenalty, bases, within);
  const BlockGram s(bases);
  const double* gram = data<double>(s.gram);
  const int64_t size = s.gram.size(0), d = s.d;
  double outside = 0, inside = 0;
  for (int64_t a = 0; a < size; ++a)
    for (int64_t b = 0; b < size; ++b)
      if (!s.tall || a / d != b / d) outside += gram[a * size + b] * gram[a * size + b];
  for (int64_t k = 0; k < s.K; ++k)
    for (int64_t a = 0; a < d; ++a)
      for (int64_t b = 0; b < d; ++b) {
        const double g = s.block[(k * d + a) * d + b], excess = block_excess(s, orthonormal, k, a, b);
        if (!s.tall) outside -= g * g;
        inside += excess * excess;
      }
  const auto compute = compute_type(kPenalty, "bases", bases);
  Tensor out = empty_of(bases, {}, compute);
  dispatch(compute, [&]<class T>() { *mutable_data<T>(out) = T(std::max(outside, 0.0) + inside); });
  return out;
}

// d/dS_k = 4 (S SᵀS)_k − 4 S_k G_k + 4 S_k E_k with E_k the excess inside the block.
static Tensor penalty_backward(const Tensor& grad, const Tensor& bases, std::string within) {
  const bool orthonormal = asks_orthonormal(kPenalty, bases, within);
  BlockGram s(bases);
  double* gram = mutable_data<double>(s.gram);
  const int64_t size = s.gram.size(0), d = s.d, p = s.p;
  if (s.tall)
    for (int64_t k = 0; k < s.K; ++k)
      for (int64_t a = 0; a < d; ++a)
        for (int64_t b = 0; b < d; ++b) gram[(k * d + a) * size + k * d + b] = block_excess(s, orthonormal, k, a, b);
  Tensor product = like(s.rows);
  rows_times<double>(s.rows, nullptr, s.rows.size(0), nullptr, gram, &product, nullptr);
  Tensor out = gradient_like(bases, true);
  const auto compute = compute_type(kPenalty, "bases", bases);
  check_type(kPenalty, "grad", grad, compute);
  double upstream = 0;
  dispatch(compute, [&]<class T>() { upstream = double(*data<T>(grad)); });
  const MutableRows target = mutable_rows_of(out);
  const double *rows = data<double>(s.rows), *times = data<double>(product);
  for_each_task(s.K, [&](int64_t k) {
    Array<double> line(d);
    for (int64_t j = 0; j < p; ++j) {
      for (int64_t c = 0; c < d; ++c) {
        double x = times[s.element(k, j, c)];
        if (!s.tall)
          for (int64_t a = 0; a < d; ++a)
            x += rows[s.element(k, j, a)] * (block_excess(s, orthonormal, k, a, c) - s.block[(k * d + a) * d + c]);
        line[c] = 4 * upstream * x;
      }
      table<double>().store_row(target, k * p + j, line);
    }
  });
  return out;
}

}  // namespace desc_ext::cpu

STABLE_TORCH_LIBRARY_IMPL(desc_ext, CPU, m) {
  m.impl("block_orthogonality_penalty", TORCH_BOX(&desc_ext::cpu::penalty));
  m.impl("block_orthogonality_penalty_backward", TORCH_BOX(&desc_ext::cpu::penalty_backward));
}
