// Block orthogonality ‖SᵀS ⊙ I − I‖² + ‖SᵀS ⊙ O‖² on the CPU, in float64 whatever the bases are stored in.
//
// S = [S_1 … S_K] in R^{p×Kd}, G_k = S_kᵀS_k. The off-diagonal blocks of SᵀS hold ‖SᵀS‖² − Σ_k ‖G_k‖². When Kd > p,
// ‖SᵀS‖² is taken from the p×p matrix as ‖SSᵀ‖²: linear in K, and no Kd×Kd array. That difference cancels where the
// blocks are nearly orthogonal, hence float64: its error is 1e-16 ‖SSᵀ‖².
#include "segments.h"

namespace desc_ext::cpu {

static const char* kPenalty = "block_orthogonality_penalty";

static double sum_of_squares(const double* x, int64_t count) {
  double sum[8] = {};
  int64_t i = 0;
  for (; i + 8 <= count; i += 8)
    for (int lane = 0; lane < 8; ++lane) sum[lane] += x[i + lane] * x[i + lane];
  for (; i < count; ++i) sum[i % 8] += x[i] * x[i];
  return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

struct BlockGram {
  int64_t K, p, d;
  bool tall;  // K·d ≤ p
  Tensor dense;
  Rows source;          // the bases, stored as they are
  Tensor rows;          // float64: S [p, Kd] when tall, else Sᵀ [Kd, p]
  Tensor gram;          // float64: rowsᵀ rows, so SᵀS when tall, else SSᵀ
  Array<double> block;  // [K, d, d] G_k

  explicit BlockGram(const Tensor& bases)
      : K(bases.size(0)), p(bases.size(1)), d(bases.size(2)), tall(K * d <= p), dense(as_contiguous(bases)),
        source(rows_of(dense)), rows(empty_of(bases, {tall ? p : K * d, tall ? K * d : p}, ScalarType::Double)),
        gram(empty_of(bases, {rows.size(1), rows.size(1)}, ScalarType::Double)), block(K * d * d) {
    double* to = mutable_data<double>(rows);
    for_tasks(K, double(p * d) * (4.0 + 2.0 * double(d)), [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) load_basis(k, to);
    });
    segment_grams<double>(rows, nullptr, Segments(rows.size(0)), mutable_data<double>(gram));
    const int64_t size = K * d;
    for (int64_t a = 0; tall && a < size; ++a) {
      const double* own = data<double>(gram) + a * size + a / d * d;
      std::copy(own, own + d, block + a * d);
    }
  }

  // ‖SᵀS‖² outside the diagonal blocks.
  double outside() const {
    const int64_t size = gram.size(0);
    const double* g = data<double>(gram);
    if (!tall) return std::max(0.0, sum_of_squares(g, size * size) - sum_of_squares(block, K * d * d));
    double sum = 0;
    for (int64_t a = 0; a < size; ++a) {
      const int64_t own = a / d * d;
      sum += sum_of_squares(g + a * size, own) + sum_of_squares(g + a * size + own + d, size - own - d);
    }
    return sum;
  }

  // G_k less what is asked of it inside its block: entries that nothing is asked of are 0.
  double excess(bool orthonormal, int64_t k, int64_t a, int64_t b) const {
    if (!orthonormal && a != b) return 0;
    return block[(k * d + a) * d + b] - (a == b ? 1.0 : 0.0);
  }

 private:
  void load_basis(int64_t k, double* to) const {
    if (!tall) return table<double>().basis_gram(source, k, p, d, to + k * d * p, block + k * d * d);
    Array<double> basis(p * d);
    table<double>().load_rows({source.data, source.storage, p * d}, k, 1, p * d, basis);
    for (int64_t j = 0; j < p; ++j) std::copy(basis + j * d, basis + (j + 1) * d, to + j * K * d + k * d);
  }
};

static Tensor penalty(const Tensor& bases, std::string within) {
  const bool orthonormal = asks_orthonormal(kPenalty, bases, within);
  const BlockGram s(bases);
  double inside = 0;
  for (int64_t k = 0; k < s.K; ++k)
    for (int64_t a = 0; a < s.d; ++a)
      for (int64_t b = orthonormal ? 0 : a; b < (orthonormal ? s.d : a + 1); ++b) {
        const double excess = s.excess(orthonormal, k, a, b);
        inside += excess * excess;
      }
  const auto compute = compute_type(kPenalty, "bases", bases);
  Tensor out = empty_of(bases, {}, compute);
  dispatch(compute, [&]<class T>() { *mutable_data<T>(out) = T(s.outside() + inside); });
  return out;
}

// d/dS_k = 4 (S SᵀS)_k − 4 S_k G_k + 4 S_k E_k with E_k the excess inside the block.
static Tensor penalty_backward(const Tensor& grad, const Tensor& bases, std::string within) {
  const bool orthonormal = asks_orthonormal(kPenalty, bases, within);
  const auto compute = compute_type(kPenalty, "bases", bases);
  check_type(kPenalty, "grad", grad, compute);
  BlockGram s(bases);
  double* gram = mutable_data<double>(s.gram);
  const int64_t size = s.gram.size(0), d = s.d, p = s.p;
  if (s.tall)
    for (int64_t k = 0; k < s.K; ++k)
      for (int64_t a = 0; a < d; ++a)
        for (int64_t b = 0; b < d; ++b) gram[(k * d + a) * size + k * d + b] = s.excess(orthonormal, k, a, b);
  Tensor product = like(s.rows);
  rows_times<double>(s.rows, nullptr, s.rows.size(0), nullptr, gram, &product, nullptr);
  Tensor out = gradient_like(bases, true);
  double factor = 0;
  dispatch(compute, [&]<class T>() { factor = 4 * double(*data<T>(grad)); });
  const MutableRows target{out.mutable_data_ptr(), storage_of(out), p * d};
  const double* times = data<double>(product);
  for_tasks(s.K, double(p * d) * (4.0 + 2.0 * double(d)), [&](int64_t begin, int64_t end) {
    Array<double> matrix(d * d), line(p * d);
    for (int64_t k = begin; k < end; ++k) {
      if (s.tall) {
        for (int64_t j = 0; j < p; ++j)
          for (int64_t c = 0; c < d; ++c) line[j * d + c] = factor * times[j * size + k * d + c];
        table<double>().store_row(target, k, line);
        continue;
      }
      for (int64_t a = 0; a < d; ++a)
        for (int64_t b = 0; b < d; ++b)
          matrix[a * d + b] = s.excess(orthonormal, k, a, b) - s.block[(k * d + a) * d + b];
      table<double>().basis_product(s.source, k, p, d, times + k * d * p, matrix, factor, target);
    }
  });
  return out;
}

}  // namespace desc_ext::cpu

STABLE_TORCH_LIBRARY_IMPL(desc_ext, CPU, m) {
  m.impl("block_orthogonality_penalty", TORCH_BOX(&desc_ext::cpu::penalty));
  m.impl("block_orthogonality_penalty_backward", TORCH_BOX(&desc_ext::cpu::penalty_backward));
}
