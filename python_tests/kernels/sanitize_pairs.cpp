// The kernels over pairs of rows, as sanitize.cpp runs the others.
#include "cuda/pairwise.cuh"
#include "cuda/self_expression.cuh"
#include "sanitize.h"

namespace desc_ext::sanitize {
namespace {

using namespace cuda;

// f(block) for all pairs of n rows, in blocks that leave tails on both sides.
template <class F>
void for_blocks(int64_t n, const F& f) {
  constexpr int64_t rows = 70, columns = 39;
  for (int64_t row = 0; row < n; row += rows)
    for (int64_t column = 0; column < n; column += columns) {
      const int64_t here = std::min(columns, n - column);
      f(PairBlock{row, std::min(rows, n - row), column, here, ceil_div<int64_t>(here, 4) * 4});
    }
}

enum class Change { none, centred, unit };

// Rows of any type as the kernels over pairs take them, held against plain loops.
template <class P>
struct PairRows {
  using T = typename P::Compute;
  Matrix<T> rows, inverse_norm;

  PairRows(const Matrix<T>& in, int64_t n, int64_t p, Change change = Change::none)
      : rows(n, p, P::computed), inverse_norm(n, 1, P::computed) {
    std::vector<double> totals(size_t(p), 0.0);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t c = 0; c < p; ++c) totals[size_t(c)] += in.at(i, c);
    check(run_pair_prepare<T>({in.rows(), n, n, change == Change::centred ? totals.data() : nullptr,
                               change == Change::unit ? inverse_norm.data() : nullptr, rows.data()},
                              nullptr));
    for (int64_t i = 0; i < n; ++i) {
      double squared = 0;
      for (int64_t c = 0; c < p; ++c) squared += in.at(i, c) * in.at(i, c);
      for (int64_t c = 0; c < p; ++c) {
        const double x = change == Change::centred ? in.at(i, c) - totals[size_t(c)] / double(n) : in.at(i, c);
        expect_close(rows.at(i, c), change == Change::unit ? x / std::sqrt(squared) : x, P::computed, "a prepared row");
      }
    }
  }

  double product(int64_t i, const PairRows& other, int64_t j) const {
    double sum = 0;
    for (int64_t c = 0; c < width(); ++c) sum += rows.at(i, c) * other.rows.at(j, c);
    return sum;
  }
  double distance(int64_t i, int64_t j) const {
    double sum = 0;
    for (int64_t c = 0; c < width(); ++c) sum += std::pow(rows.at(i, c) - rows.at(j, c), 2);
    return sum;
  }
  int64_t width() const { return rows.rows().width; }

  // Products of the rows of a block with those of `other` that are its columns, or their distances.
  std::vector<T> values(const PairRows& other, const PairBlock& block, bool distances) const {
    const int64_t p = width();
    const Plan plan = plan_columns<T>(block.columns, p, distances ? kDistanceColumns : kSlotColumns);
    auto panels = workspace<T>(plan.panel_elements()), out = workspace<T>(block.rows * block.pitch);
    check(run_pack_panels<T>(plan, other.rows.data() + block.column * p, false, nullptr, panels.data(), nullptr));
    const auto job =
        make_product<T>({rows.data() + block.row * p, P::computed, p, nullptr}, block.rows, plan, panels.data());
    check(distances ? run_distances<T>(job, out.data(), nullptr, block.pitch)
                    : run_products<T>(job, out.data(), block.pitch, nullptr));
    return out;
  }
};

// f(i, j, position in the block) for its pairs.
template <class F>
void for_pairs(const PairBlock& block, const F& f) {
  for (int64_t r = 0; r < block.rows; ++r)
    for (int64_t c = 0; c < block.columns; ++c) f(block.row + r, block.column + c, size_t(r * block.pitch + c));
}

template <class P>
struct Leverages {
  using T = typename P::Compute;
  Matrix<T> scale, slope;
  Leverages(const PairRows<P>& y, int64_t n) : scale(n, 1, P::computed), slope(n, 1, P::computed) {
    check(run_pair_leverage<T>(y.rows.data(), n, y.width(), scale.data(), slope.data(), nullptr));
    for (int64_t i = 0; i < n; ++i) {
      const double wanted = 1 / (1 - y.product(i, y, i));
      expect_close(scale.get(i), wanted, P::computed, "a leverage");
      expect_close(slope.get(i), wanted * wanted, P::computed, "the slope of a leverage");
    }
  }
  double mean(int64_t i, int64_t j) const { return (scale.get(i) + scale.get(j)) / 2; }
};

// The largest coefficients and affinities of every row, and the gradients of Σ_ia grad_ia value_ia.
template <class P>
void largest(Shape s) {
  using T = typename P::Compute;
  const int64_t n = s.n, p = s.p, k = std::min<int64_t>(3, n - 1);
  if (n < 2) return;
  const PairRows<P> y(P::random(n, p, 1, 0.3 / std::sqrt(double(p))), n, p);
  const Leverages<P> leverage(y, n);
  const auto grad = P::random_computed(n, k, 2);
  for (const bool affinity : {false, true}) {
    Matrix<T> values(n, k, P::computed), dy(n, p, P::stored);
    auto indices = workspace<int64_t>(n * k);
    for_blocks(n, [&](const PairBlock& block) {
      const auto products = y.values(y, block, false);
      check(run_select<T>(
          {block, products.data(), affinity ? leverage.scale.data() : nullptr, k, values.data(), indices.data()},
          nullptr));
    });
    check(run_select_finish<T>(values.data(), indices.data(), leverage.scale.data(), affinity, n, n, k, nullptr));
    const auto value = [&](int64_t i, int64_t j) {
      return affinity ? std::abs(y.product(i, y, j)) * leverage.mean(i, j) : y.product(i, y, j) * leverage.scale.get(i);
    };
    const SortedLabels sorted(indices, n);
    auto across = workspace<T>(n * k), own = workspace<T>(n * k), other = workspace<T>(n * k);
    check(run_selected<T>({y.rows.data(), n, p, k, affinity, indices.data(), grad.data(), leverage.scale.data(),
                           leverage.slope.data(), across.data(), own.data(), other.data()},
                          sorted.begin.data(), sorted.order.data(), dy.mutable_rows(), nullptr));
    std::vector<double> wanted(size_t(n * p));
    for (int64_t i = 0; i < n; ++i) {
      std::vector<double> sizes;
      for (int64_t j = 0; j < n; ++j)
        if (j != i) sizes.push_back(std::abs(value(i, j)));
      std::sort(sizes.rbegin(), sizes.rend());
      for (int64_t a = 0; a < k; ++a) {
        const int64_t j = indices[size_t(i * k + a)];
        expect_close(std::abs(values.at(i, a)), sizes[size_t(a)], P::computed, "one of the largest");
        expect_close(values.at(i, a), value(i, j), P::computed, "what is largest");
        const double g = grad.at(i, a), product = y.product(i, y, j);
        const double by_product = affinity ? (product > 0 ? 1 : -1) * leverage.mean(i, j) : leverage.scale.get(i);
        const double by_own = affinity ? std::abs(product) / 2 : product,
                     by_other = affinity ? std::abs(product) / 2 : 0;
        for (int64_t c = 0; c < p; ++c) {
          const double x = y.rows.at(i, c), z = y.rows.at(j, c);
          wanted[size_t(i * p + c)] += g * (by_product * z + by_own * leverage.slope.get(i) * 2 * x);
          wanted[size_t(j * p + c)] += g * (by_product * x + by_other * leverage.slope.get(j) * 2 * z);
        }
      }
    }
    expect_all_close(dy, wanted, P::stored, "the gradient of the largest");
  }
}

// C̃ and its size, and the gradients of both terms of the residual, with any numbers for E and C̃ᵀE.
template <class P>
void expression(Shape s) {
  using T = typename P::Compute;
  const int64_t n = s.n, p = s.p;
  const PairRows<P> z(P::random(n, p, 1), n, p), difference(P::random(n, p, 4), n, p);
  const auto coef = P::random(n, n, 2, 0.2), moments = P::random_computed(n, p, 3);
  Matrix<T> residual(1, 1, P::computed), dz(n, p, P::stored);
  auto sizes = workspace<double>(n);
  check(run_pair_sizes<T>(difference.rows.rows(), n, RowSize::squares, sizes.data(), nullptr));
  check(run_pair_totals<T>({sizes.data(), n, 1, 0.5, residual.data()}, 1, nullptr));
  double squared = 0;
  for (int64_t i = 0; i < n; ++i) squared += difference.product(i, difference, i);
  expect_close(residual.get(0), squared / 2, P::computed, "the residual");
  const T grad = T(0.7), grad_size = T(0.3);
  check(run_expression_rows<T>({difference.rows.data(), moments.data(), &grad, n, dz.mutable_rows()}, nullptr));
  for (int64_t i = 0; i < n; ++i)
    for (int64_t c = 0; c < p; ++c)
      expect_close(dz.at(i, c), 0.7 * (difference.rows.at(i, c) - moments.at(i, c)), P::stored, "the gradient of z");
  for (const bool absolute : {false, true}) {
    Matrix<T> dcoef(n, n, P::stored);
    for_blocks(n, [&](const PairBlock& block) {
      auto values = workspace<T>(block.rows * block.pitch);
      check(run_expression_block<T>({block, coef.rows(), absolute, values.data(), sizes.data()}, nullptr));
      for_pairs(block, [&](int64_t i, int64_t j, size_t at) {
        expect_close(values[at], j == i ? 0 : coef.at(i, j), P::computed, "a coefficient off the diagonal");
      });
      const auto products = difference.values(z, block, false);
      check(run_expression_coef<T>(
          {block, products.data(), coef.rows(), absolute, &grad, &grad_size, dcoef.mutable_rows()}, nullptr));
    });
    for (int64_t i = 0; i < n; ++i) {
      double size = 0;
      for (int64_t j = 0; j < n; ++j) {
        const double c = j == i ? 0 : coef.at(i, j), slope = absolute ? (c > 0) - (c < 0) : 2 * c;
        size += absolute ? std::abs(c) : c * c;
        expect_close(dcoef.at(i, j), j == i ? 0 : 0.3 * slope - 0.7 * difference.product(i, z, j), P::stored,
                     "the gradient of C");
      }
      expect_close(sizes[size_t(i)], size, P::computed, "the size of a row of C");
    }
  }
}

template <class P>
void collaborative(Shape s) {
  using T = typename P::Compute;
  const int64_t n = s.n, p = s.p;
  const double upper = 0.15, lower = 0.6, apart = 0.1;
  const PairRows<P> y(P::random(n, p, 1, 0.3 / std::sqrt(double(p))), n, p),
      nu(P::random(n, s.K + 1, 2), n, s.K + 1, Change::unit);
  const Leverages<P> leverage(y, n);
  // All affinities are below a row's maximum; common ones may be negative here, and are clamped.
  std::vector<T> row_max(size_t(n), T(0.5)), inverse = workspace<T>(n);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j)
      row_max[size_t(i)] = std::max(row_max[size_t(i)], T(1.25 * std::abs(y.product(i, y, j)) * leverage.mean(i, j)));
  check(run_collaborate_maxima<T>(row_max.data(), n, inverse.data(), nullptr));
  auto sums = workspace<double>(n * 3);
  auto counts = workspace<int64_t>(n * 3), total_counts = workspace<int64_t>(3);
  const std::vector<T> grad{T(0.5), T(-0.4), T(0.3)};
  auto grad_norm = workspace<T>(n), grad_max = workspace<T>(n);
  const std::vector<int64_t> divisors{3, 0, 2};
  std::vector<double> wanted(3), norm(size_t(n), 0.0), maximum(size_t(n), 0.0);
  std::vector<int64_t> wanted_counts(3);
  const auto clamp = [](double x) { return std::clamp(x, 1e-6, 1.0); };
  const auto log_slope = [](double x) { return x >= 1e-6 && x <= 1 ? 1 / x : 0; };
  for_blocks(n, [&](const PairBlock& block) {
    auto products = y.values(y, block, false), common = nu.values(nu, block, false);
    Collaboration<T> job{block,          products.data(), common.data(), leverage.scale.data(),
                         inverse.data(), T(upper),        T(lower),      T(apart)};
    job.sums = sums.data(), job.counts = counts.data();
    check(run_collaborate(job, nullptr));
    job.grad = grad.data(), job.grad_counts = divisors.data(), job.slope = leverage.slope.data(), job.soft = true;
    job.grad_norm = grad_norm.data(), job.grad_max = grad_max.data();
    const auto kept_products = products, kept_common = common;
    check(run_collaborate_weights(job, nullptr));
    for_pairs(block, [&](int64_t i, int64_t j, size_t at) {
      const double product = kept_products[at], a_c = kept_common[at], size = std::abs(product) * leverage.mean(i, j);
      expect_close(product, y.product(i, y, j), P::computed, "a product");
      double by_common = 0, by_affinity = 0;
      for (const int64_t row : {i, j}) {
        const double a_s = size * inverse[size_t(row)];
        if (i == j) continue;
        const bool terms[] = {a_s > upper, a_c < lower, a_s < apart};
        double slope = 0;
        if (terms[0]) by_common -= grad[0] / 3 * a_s * log_slope(a_c), slope -= grad[0] / 3 * std::log(clamp(a_c));
        if (terms[1])
          slope += grad[1] * (1 - a_c) * log_slope(1 - a_s), by_common += grad[1] * std::log(clamp(1 - a_s));
        if (terms[2]) by_common += grad[2] / 2 * log_slope(1 - a_c);
        by_affinity += slope * inverse[size_t(row)];
        if (row != i) continue;
        const double values[] = {-a_s * std::log(clamp(a_c)), -(1 - a_c) * std::log(clamp(1 - a_s)),
                                 -std::log(clamp(1 - a_c))};
        for (size_t term = 0; term < 3; ++term)
          if (terms[term]) wanted[term] += values[term], ++wanted_counts[term];
        maximum[size_t(i)] -= slope * a_s * inverse[size_t(i)];
      }
      norm[size_t(i)] += by_affinity * std::abs(product) * leverage.slope.get(i);
      const double weight = (product > 0 ? 1 : -1) * by_affinity * leverage.mean(i, j);
      // Where logarithms are steep, roundings of A_c are magnified.
      if (std::abs(by_common) < 100) expect_close(common[at], by_common, P::computed, "a weight of a prediction");
      expect_close(products[at], weight, P::computed, "a weight of a row");
    });
  });
  Matrix<T> losses(1, 3, P::computed);
  check(run_pair_totals<T>({sums.data(), n, 3, 1.0, losses.data(), counts.data(), total_counts.data()}, 1, nullptr));
  for (int64_t term = 0; term < 3; ++term) {
    const int64_t count = wanted_counts[size_t(term)];
    if (total_counts[size_t(term)] != count) throw std::runtime_error("the number of pairs of a term is wrong");
    expect_close(losses.get(term), wanted[size_t(term)] / double(std::max<int64_t>(1, count)), P::computed, "a term");
  }
  for (size_t i = 0; i < size_t(n); ++i) {
    expect_close(grad_norm[i], norm[i], P::computed, "the factor of a row's own part");
    expect_close(grad_max[i], maximum[i], P::computed, "the gradient of a row's maximum");
  }
}

template <class P>
void laplacian(Shape s) {
  using T = typename P::Compute;
  const int64_t n = s.n, p = s.p;
  const PairRows<P> z(P::random(n, p, 1), n, p, Change::centred),
      features(P::random(n, s.d, 2), n, s.d, Change::centred);
  const double rate = 0.2;
  const T grad = T(0.6);
  auto sums = workspace<double>(n);
  auto weight_z = workspace<T>(n), weight_features = workspace<T>(n);
  std::vector<double> energy(size_t(n), 0.0), wanted_z(size_t(n), 0.0), wanted_features(size_t(n), 0.0);
  for_blocks(n, [&](const PairBlock& block) {
    auto distances = z.values(z, block, true), far = features.values(features, block, true);
    LaplacianEnergy<T> job{block, distances.data(), far.data(), T(rate)};
    job.sums = sums.data(), job.grad = &grad, job.weight_z = weight_z.data(),
    job.weight_features = weight_features.data();
    check(run_laplacian(job, nullptr));
    check(run_laplacian_weights(job, nullptr));
    for_pairs(block, [&](int64_t i, int64_t j, size_t at) {
      const double kernel = i == j ? 0 : std::exp(-rate * features.distance(i, j)), distance = z.distance(i, j);
      energy[size_t(i)] += kernel * distance;
      wanted_z[size_t(i)] += 1.2 * kernel, wanted_features[size_t(i)] -= 1.2 * rate * kernel * distance;
      expect_close(far[at], 1.2 * kernel, P::computed, "a weight of a row");
      expect_close(distances[at], -1.2 * rate * kernel * distance, P::computed, "a weight of a row of features");
    });
  });
  for (size_t i = 0; i < size_t(n); ++i) {
    expect_close(sums[i], energy[i], P::computed, "the energy of a row");
    expect_close(weight_z[i], wanted_z[i], P::computed, "the sum of a row's weights");
    expect_close(weight_features[i], wanted_features[i], P::computed, "the sum of a row's weights of features");
  }
  // x_i Σ_j w_ij − Σ_j w_ij x_j, with any numbers for the last.
  Matrix<T> out(n, p, P::stored);
  const auto products = P::random_computed(n, p, 3);
  check(run_pair_store<T>({products.data(), z.rows.data(), weight_z.data(), T(-1), n, out.mutable_rows()}, nullptr));
  for (int64_t i = 0; i < n; ++i)
    for (int64_t c = 0; c < p; ++c)
      expect_close(out.at(i, c), weight_z[size_t(i)] * z.rows.at(i, c) - products.at(i, c), P::stored,
                   "a row of the gradient");
}

template <class P>
void info_nce(Shape s) {
  using T = typename P::Compute;
  const int64_t n = s.n, p = s.p;
  const double temperature = 0.3;
  const PairRows<P> z(P::random(n, p, 1), n, p, Change::unit), g(P::random(n, p, 2), n, p, Change::unit);
  auto most = workspace<T>(n), sum = workspace<T>(n), matched = workspace<T>(n), log_sum = workspace<T>(n);
  auto loss = workspace<double>(n);
  for_blocks(n, [&](const PairBlock& block) {
    auto cosines = z.values(g, block, false);
    InfoNce<T> job{block, cosines.data(), T(1 / temperature)};
    job.largest = most.data(), job.sum = sum.data(), job.matched = matched.data();
    check(run_info_nce(job, nullptr));
  });
  check(run_info_nce_finish<T>(most.data(), sum.data(), matched.data(), n, temperature, log_sum.data(), loss.data(),
                               nullptr));
  for (int64_t i = 0; i < n; ++i) {
    double total = 0;
    for (int64_t j = 0; j < n; ++j) total += std::exp(z.product(i, g, j) / temperature);
    expect_close(log_sum[size_t(i)], std::log(total), P::computed, "a log-sum");
    expect_close(loss[size_t(i)], std::log(total) - z.product(i, g, i) / temperature, P::computed, "the loss of a row");
  }
  const T grad = T(0.9);
  for (const bool by_column : {false, true})
    for_blocks(n, [&](const PairBlock& block) {
      auto cosines = by_column ? g.values(z, block, false) : z.values(g, block, false);
      InfoNce<T> job{block, cosines.data(), T(1 / temperature)};
      job.log_sum = log_sum.data(), job.grad = &grad, job.factor = T(0.1), job.by_column = by_column;
      check(run_info_nce_weights(job, nullptr));
      for_pairs(block, [&](int64_t i, int64_t j, size_t at) {
        const double cosine = by_column ? z.product(j, g, i) : z.product(i, g, j);
        const double softmax = std::exp(cosine / temperature - log_sum[size_t(by_column ? j : i)]);
        expect_close(cosines[at], 0.09 * (softmax - (i == j)), P::computed, "a weight");
      });
    });
  const auto sums = P::random_computed(n, p, 3);
  Matrix<T> out(n, p, P::stored);
  check(run_info_nce_rows<T>({sums.data(), z.rows.data(), z.inverse_norm.data(), n, out.mutable_rows()}, nullptr));
  for (int64_t i = 0; i < n; ++i) {
    double along = 0;
    for (int64_t c = 0; c < p; ++c) along += sums.at(i, c) * z.rows.at(i, c);
    for (int64_t c = 0; c < p; ++c)
      expect_close(out.at(i, c), z.inverse_norm.get(i) * (sums.at(i, c) - along * z.rows.at(i, c)), P::stored,
                   "the gradient of a row");
  }
}

template <class P>
void absolute_sums(Shape s) {
  using T = typename P::Compute;
  const auto z = P::random(s.n, s.p, 1);
  const std::vector<T> grad(size_t(s.n), T(0.5));  // a batch of single rows
  auto squares = workspace<double>(s.n);
  Matrix<T> dz(s.n, s.p, P::stored);
  check(run_pair_sizes<T>(z.rows(), s.n, RowSize::absolute_squared, squares.data(), nullptr));
  check(run_signs<T>(z.rows(), grad.data(), s.n, 1, dz.mutable_rows(), nullptr));
  for (int64_t i = 0; i < s.n; ++i) {
    double sum = 0;
    for (int64_t c = 0; c < s.p; ++c) sum += std::abs(z.at(i, c));
    expect_close(squares[size_t(i)], sum * sum, P::computed, "a squared sum");
    for (int64_t c = 0; c < s.p; ++c)
      expect_close(dz.at(i, c), sum * ((z.at(i, c) > 0) - (z.at(i, c) < 0)), P::stored,
                   "the gradient of a squared sum");
  }
}

template <class F32, class F64, class BF16>
Cases all_cases() {
  Cases cases;
#define DESC_EXT_CASE(name) \
  if constexpr (compiled(#name)) cases[#name] = [] { over(name<F32>, name<F64>, name<BF16>); }
  DESC_EXT_CASE(largest);
  DESC_EXT_CASE(expression);
  DESC_EXT_CASE(collaborative);
  DESC_EXT_CASE(laplacian);
  DESC_EXT_CASE(info_nce);
  DESC_EXT_CASE(absolute_sums);
#undef DESC_EXT_CASE
  return cases;
}

}  // namespace
}  // namespace desc_ext::sanitize

int main(int count, char** arguments) {
  using namespace desc_ext::sanitize;
  return run_cases(count, arguments, all_cases<F32, F64, BF16>());
}
