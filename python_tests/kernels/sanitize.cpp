// Runs every kernel of csrc/cuda over small shapes, in both orders of the lanes, for builds with ThreadSanitizer or
// with AddressSanitizer and UBSan: races between barriers and accesses out of bounds end it with their report, results
// far from the plain loops with a message. ./sanitize runs all cases, ./sanitize CASE one;
// -DDESC_EXT_ONLY_CASE='"CASE"' compiles one only.
#include "sanitize.h"

namespace desc_ext::sanitize {
namespace {

using namespace cuda;

// Bases in the layouts of the kernels.
template <class T>
struct PreparedBases {
  const Matrix<T>& bases;
  const Shape s;
  const Metric metric;
  std::vector<T> columns, rotated, scale, panels, packed_scale;
  std::vector<double> matrix, rotation;
  BasisArrays<T> arrays;

  PreparedBases(const Matrix<T>& bases, Shape s, Metric metric)
      : bases(bases), s(s), metric(metric), columns(workspace<T>(s.K * s.d * s.p)),
        rotated(workspace<T>(residual() ? s.K * s.d * s.p : 0)), scale(workspace<T>(residual() ? s.K * s.d : 0)),
        matrix(workspace<double>(residual() ? s.K * s.d * s.d : 0)),
        rotation(workspace<double>(int64_t(matrix.size()))),
        arrays{columns.data(), residual() ? rotated.data() : columns.data(), scale.data(), matrix.data(),
               rotation.data()} {
    check(run_prepare_bases<T>(bases.data(), bases.storage(), s.K, s.p, s.d, metric, arrays, nullptr));
  }

  bool residual() const { return metric == Metric::residual; }

  Projection<T> projection(const Matrix<T>& z, int parts) {
    const Plan plan = parts ? plan_tensor(s.K, s.d, s.p) : plan_subspaces<T>(s.K, s.d, s.p);
    panels = workspace<T>(plan.panel_elements());
    packed_scale = workspace<T>((parts ? 2 : residual() ? 1 : 0) * plan.scale_elements());
    if constexpr (sizeof(T) == 4)
      if (parts)
        check(run_pack_tensor_panels(plan, {arrays.rotated, s.K * s.d, s.p}, residual() ? arrays.scale : nullptr,
                                     panels.data(), packed_scale.data(), nullptr));
    if (!parts) {
      check(run_pack_panels<T>(plan, arrays.rotated, false, nullptr, panels.data(), nullptr));
      if (residual()) check(run_pack_scale<T>(plan, arrays.scale, packed_scale.data(), nullptr));
    }
    Projection<T> job{make_product<T>(z.rows(), s.n, plan, panels.data()),
                      metric,
                      parts || residual() ? packed_scale.data() : nullptr,
                      arrays.columns,
                      nullptr,
                      parts};
    job.product.norms = residual();
    if (parts) job.product.threads = TensorTile::threads, job.product.stage = TensorTile::stage;
    return job;
  }

  Matrix<T> gradient(const std::vector<T>& moments) {
    Matrix<T> out(s.K * s.p, s.d, bases.storage());
    auto weights = workspace<double>(int64_t(matrix.size()));
    check(run_basis_gradient<T>(moments.data(), arrays, weights.data(), s.K, s.p, s.d, metric, out.data(),
                                out.storage(), nullptr));
    return out;
  }
};

template <class P>
Matrix<typename P::Compute> random_bases(Shape s) {
  return P::random(s.K * s.p, s.d, 2, 1 / std::sqrt(double(s.p)));
}

template <class T>
void run_accumulating(Moments<T> job, std::vector<T>& out) {
  auto slots = workspace<T>(moment_slots(job));
  job.out = out.data(), job.slots = slots.data(), job.accumulate = true;
  check(run_moments(job, nullptr));
}

template <class P>
void values_of(Shape s, int parts) {
  using T = typename P::Compute;
  const Storage precision = parts == 1 ? Storage::f16 : P::computed;  // TF32 has the mantissa of float16
  const auto z = P::random(s.n, s.p, 1), bases = random_bases<P>(s), weight = P::random_computed(s.n, s.K, 3);
  const Truth<T> truth{z, bases, s};
  for (const Metric metric : {Metric::energy, Metric::residual}) {
    PreparedBases<T> prepared(bases, s, metric);
    auto job = prepared.projection(z, parts);
    const dim3 grid = product_grid(job.product);
    auto scratch = workspace<T>(values_scratch(job, grid));
    job.scratch = scratch.data();
    Matrix<T> values(s.n, s.K, P::computed), best(s.n, 1, P::computed);
    const T factor = 2;
    check(run_values<T>(job, grid, values.data(), &factor, nullptr));

    auto candidates = workspace<int>(grid.y * s.n);
    auto candidate_values = workspace<T>(grid.y * s.n);
    auto labels = workspace<int64_t>(s.n);
    check(run_nearest<T>(job, grid, candidates.data(), candidate_values.data(), labels.data(), best.data(), nullptr));
    double loss = 0;
    for (int64_t i = 0; i < s.n; ++i) {
      double extreme = truth.value(metric, i, 0);
      for (int64_t k = 0; k < s.K; ++k) {
        const double value = truth.value(metric, i, k);
        expect_close(values.at(i, k), 2 * value, precision, "an energy or residual");
        extreme = metric == Metric::energy ? std::max(extreme, value) : std::min(extreme, value);
        loss += weight.at(i, k) * value;
      }
      expect_close(best.get(i), extreme, precision, "the value of the nearest subspace");
      expect_close(truth.value(metric, i, labels[size_t(i)]), extreme, precision, "the value at the nearest subspace");
    }
    auto partial = workspace<double>(int64_t(grid.x) * grid.y);
    Matrix<T> sum(1, 1, P::computed);
    check(run_loss<T>(job, grid, weight.data(), partial.data(), sum.data(), nullptr));
    expect_close(sum.get(0), loss, precision, "the weighted loss");
  }
}

template <class P>
void projection_values(Shape s) {
  values_of<P>(s, 0);
}

template <class P>
void tensor_values(Shape s) {
  if constexpr (P::stored == Storage::f32) values_of<P>(s, 1), values_of<P>(s, 3);
  if constexpr (P::stored == Storage::bf16) values_of<P>(s, 2);
}

// Gradients of Σ_ik (grad_ik − shift_i)·factor_i · value_ik.
template <class P>
void gradient_of(Shape s, bool tensor) {
  using T = typename P::Compute;
  const int64_t C = s.K * s.d;
  const auto z = P::random(s.n, s.p, 1), bases = random_bases<P>(s), grad = P::random_computed(s.n, s.K, 3),
             shift = P::random_computed(s.n, 1, 4), factor = P::random_computed(s.n, 1, 5);
  const Upstream<T> upstream{grad.data(), shift.data(), factor.data(), nullptr};
  for (const Metric metric : {Metric::energy, Metric::residual}) {
    PreparedBases<T> prepared(bases, s, metric);
    const bool residual = prepared.residual();
    const Plan plan = plan_columns<T>(C, s.p), back_plan = plan_columns<T>(s.p, C);
    auto panels = workspace<T>(plan.panel_elements()), back_panels = workspace<T>(back_plan.panel_elements());
    check(run_pack_panels<T>(plan, prepared.arrays.rotated, false, nullptr, panels.data(), nullptr));
    check(run_pack_panels<T>(back_plan, prepared.arrays.rotated, true, residual ? prepared.arrays.scale : nullptr,
                             back_panels.data(), nullptr));
    Matrix<T> coefficients(s.n, C, P::computed), dz(s.n, s.p, P::stored);
    const Plan tensor_plan = plan_tensor_columns(C, s.p), tensor_back = plan_tensor_columns(s.p, C);
    auto tensor_panels = workspace<T>(tensor_plan.panel_elements()),
         back_tensor = workspace<T>(tensor_back.panel_elements()),
         scales = workspace<T>(2 * tensor_plan.scale_elements()),
         back_scales = workspace<T>(2 * tensor_back.scale_elements());
    if (!tensor)
      check(run_coefficients<T>(make_product<T>(z.rows(), s.n, plan, panels.data()), upstream, s.d, coefficients.data(),
                                nullptr));
    if constexpr (sizeof(T) == 4)
      if (tensor) {
        const Columns columns{prepared.arrays.rotated, C, s.p};
        check(run_pack_tensor_panels(tensor_plan, columns, nullptr, tensor_panels.data(), scales.data(), nullptr));
        check(launch_tensor_coefficients(P::stored == Storage::f32 ? 3 : 2,
                                         tensor_product(z.rows(), s.n, tensor_plan, tensor_panels.data()), columns,
                                         scales.data(), upstream, s.d, coefficients.data(), nullptr));
      }
    auto row_sum = workspace<T>(s.n);
    check(run_upstream_rows<T>(upstream, nullptr, s.n, s.K, nullptr, row_sum.data(), nullptr));
    const RowsOut<T> out{dz.mutable_rows(), z.rows(), residual ? row_sum.data() : nullptr, T(2), T(residual ? -1 : 1)};
    if (!tensor)
      check(run_rows<T>(make_product<T>(coefficients.rows(), s.n, back_plan, back_panels.data()), out, nullptr));
    if constexpr (sizeof(T) == 4)
      if (tensor) {
        const Columns columns{prepared.arrays.rotated, s.p, C, true, residual ? prepared.arrays.scale : nullptr};
        check(run_pack_tensor_panels(tensor_back, columns, nullptr, back_tensor.data(), back_scales.data(), nullptr));
        check(launch_tensor_rows(tensor_product(coefficients.rows(), s.n, tensor_back, back_tensor.data()), columns,
                                 back_scales.data(), out, nullptr));
      }
    Matrix<T> dz_of_parts(s.n, s.p, P::stored);
    const bool even = !tensor && C % (2 * TileShape<T>::pack) == 0;
    if (even) {
      const int64_t rows = ceil_div<int64_t>(s.n, TileShape<T>::rows) * TileShape<T>::rows;
      const DepthCuts<T> depth{s.n, rows, 2};
      auto partial = workspace<T>(depth.partial_elements(back_plan));
      RowsOut<T> parts = out;
      parts.out = dz_of_parts.mutable_rows();
      check(run_cut_rows<T>(depth, coefficients.data(), back_plan, back_panels.data(), parts, partial.data(), nullptr));
    }
    std::vector<T> moments(size_t(C * s.p), T(0));
    if (!tensor) run_accumulating(make_moments<T>(coefficients.rows(), z.rows(), s.n), moments);
    if constexpr (sizeof(T) == 4)
      if (tensor) {
        auto job = make_moments<T>(coefficients.rows(), z.rows(), s.n);
        job.chunks = s.n > 64 ? 2 : 1;
        auto slots = workspace<T>(moment_slots(job));
        job.out = moments.data(), job.slots = slots.data(), job.accumulate = true;
        check(launch_tensor_moments(job, nullptr));
      }
    const Matrix<T> dbases = prepared.gradient(moments);

    std::vector<double> wanted_z(size_t(s.n * s.p)), wanted_bases(size_t(C * s.p));
    const Truth<T> truth{z, bases, s};
    for (int64_t i = 0; i < s.n; ++i)
      for (int64_t k = 0; k < s.K; ++k)
        truth.add_gradient(metric, i, k, (grad.at(i, k) - shift.get(i)) * factor.get(i), wanted_z, wanted_bases);
    expect_all_close(dz, wanted_z, P::stored, "the gradient of z");
    if (even) expect_all_close(dz_of_parts, wanted_z, P::stored, "the gradient of z by parts");
    expect_all_close(dbases, wanted_bases, P::stored, "the gradient of the bases");
  }
}

template <class P>
void projection_gradient(Shape s) {
  gradient_of<P>(s, false);
}

template <class P>
void tensor_gradient(Shape s) {
  if constexpr (sizeof(typename P::Compute) == 4) gradient_of<P>(s, true);
}

template <class P>
void nearest_gradient(Shape s) {
  using T = typename P::Compute;
  const auto z = P::random(s.n, s.p, 1), bases = random_bases<P>(s), grad = P::random_computed(s.n, 1, 3);
  const SortedLabels sorted(s.n, s.K);
  for (const Metric metric : {Metric::energy, Metric::residual}) {
    PreparedBases<T> prepared(bases, s, metric);
    Matrix<T> coefficients(s.n, s.d, P::computed), dz(s.n, s.p, P::stored);
    check(run_own_subspace<T>({z.rows(), s.n, s.p, s.d, metric, sorted.labels.data(), grad.data(),
                               prepared.arrays.rotated, prepared.arrays.scale, coefficients.data(), dz.mutable_rows()},
                              nullptr));
    std::vector<T> moments(size_t(s.K * s.d * s.p), T(0));
    const int64_t* order = sorted.order.data();
    run_accumulating(make_moments<T>(coefficients.rows(order), z.rows(order), s.n, sorted.begin.data(), s.K), moments);
    const Matrix<T> dbases = prepared.gradient(moments);
    std::vector<double> wanted_z(size_t(s.n * s.p)), wanted_bases(size_t(s.K * s.d * s.p));
    for (int64_t i = 0; i < s.n; ++i)
      Truth<T>{z, bases, s}.add_gradient(metric, i, sorted.labels[size_t(i)], grad.get(i), wanted_z, wanted_bases);
    expect_all_close(dz, wanted_z, P::stored, "the gradient of z by its own subspace");
    expect_all_close(dbases, wanted_bases, P::stored, "the gradient of the bases by their own rows");
  }
}

template <class P>
void soft_assignment(Shape s) {
  using T = typename P::Compute;
  const auto energies = P::random_computed(s.n, s.K, 1), weight = P::random_computed(s.n, 1, 2);
  auto values = energies;
  Matrix<T> total(s.n, 1, P::computed), factor(s.n, 1, P::computed), shift(s.n, 1, P::computed);
  check(run_normalise_energies<T>(values.data(), weight.data(), T(40), s.n, s.K, total.data(), nullptr));
  check(run_normalise_factor<T>(weight.data(), total.data(), s.n, factor.data(), nullptr));
  const Upstream<T> upstream{energies.data(), nullptr, nullptr, nullptr};
  check(run_upstream_rows<T>(upstream, values.data(), s.n, s.K, shift.data(), nullptr, nullptr));
  for (int64_t i = 0; i < s.n; ++i) {
    double sum = 0, product = 0;
    for (int64_t k = 0; k < s.K; ++k) sum += energies.at(i, k) * weight.get(i) + 40;
    for (int64_t k = 0; k < s.K; ++k) {
      const double wanted = (energies.at(i, k) * weight.get(i) + 40) / sum;
      product += energies.at(i, k) * wanted;
      expect_close(values.at(i, k), wanted, P::computed, "an assignment");
    }
    expect_close(total.get(i), sum, P::computed, "the sum of a row's energies");
    expect_close(factor.get(i), weight.get(i) / sum, P::computed, "the factor of a row");
    expect_close(shift.get(i), product, P::computed, "the shift of a row");
  }
}

// Student-t assignments q, and the gradients of Σ_ik grad_ik q_ik.
template <class P>
void student(Shape s) {
  using T = typename P::Compute;
  const double dof = 1.5;
  const auto z = P::random(s.n, s.p, 1), centroids = P::random(s.K, s.p, 2), grad = P::random_computed(s.n, s.K, 3);
  const Plan plan = plan_columns<T>(s.K, s.p, kDistanceColumns), back_plan = plan_columns<T>(s.p, s.K);
  auto rows = workspace<T>(s.K * s.p), panels = workspace<T>(plan.panel_elements()),
       back_panels = workspace<T>(back_plan.panel_elements()), row_sum = workspace<T>(s.n);
  const BasisArrays<T> arrays{rows.data(), rows.data(), nullptr, nullptr, nullptr};
  check(run_prepare_bases<T>(centroids.data(), P::stored, s.K, s.p, 1, Metric::energy, arrays, nullptr));
  check(run_pack_panels<T>(plan, rows.data(), false, nullptr, panels.data(), nullptr));
  check(run_pack_panels<T>(back_plan, rows.data(), true, nullptr, back_panels.data(), nullptr));
  Matrix<T> q(s.n, s.K, P::computed), h(s.n, s.K, P::computed), dz(s.n, s.p, P::stored),
      dcentroids(s.K, s.p, P::stored);
  const auto product = make_product<T>(z.rows(), s.n, plan, panels.data());
  check(run_distances<T>(product, q.data(), nullptr));
  check(run_student_rows<T>(q.data(), T(dof), s.n, s.K, nullptr));
  check(run_distances<T>(product, h.data(), nullptr));
  check(run_student_gradient<T>(h.data(), q.data(), grad.data(), T(dof), s.n, s.K, row_sum.data(), nullptr));
  const RowsOut<T> out{dz.mutable_rows(), z.rows(), row_sum.data(), T(2), T(-1)};
  check(run_rows<T>(make_product<T>(h.rows(), s.n, back_plan, back_panels.data()), out, nullptr));
  std::vector<T> moments(size_t(s.K * s.p), T(0));
  run_accumulating(make_moments<T>(h.rows(), z.rows(), s.n), moments);
  std::vector<double> totals(size_t(s.K), 0.0);
  auto partial = workspace<double>(column_chunks(s.n, s.K) * s.K);
  check(run_column_sums<T>(h.data(), s.n, s.K, partial.data(), true, totals.data(), nullptr));
  check(run_centroid_gradient<T>(moments.data(), totals.data(), centroids.data(), s.K, s.p, dcentroids.data(),
                                 P::stored, nullptr));

  std::vector<double> wanted_z(size_t(s.n * s.p)), wanted_centroids(size_t(s.K * s.p));
  for (int64_t i = 0; i < s.n; ++i) {
    std::vector<double> distance(size_t(s.K), 0.0), kernel(size_t(s.K), 0.0);
    double sum = 0, mean = 0;
    for (int64_t k = 0; k < s.K; ++k) {
      for (int64_t j = 0; j < s.p; ++j) distance[size_t(k)] += std::pow(z.at(i, j) - centroids.at(k, j), 2);
      sum += kernel[size_t(k)] = std::pow(1 + distance[size_t(k)] / dof, -(dof + 1) / 2);
    }
    for (int64_t k = 0; k < s.K; ++k) mean += grad.at(i, k) * kernel[size_t(k)] / sum;
    for (int64_t k = 0; k < s.K; ++k) {
      const double wanted = kernel[size_t(k)] / sum;
      expect_close(q.at(i, k), wanted, P::computed, "a Student-t assignment");
      const double g = -(dof + 1) * wanted * (grad.at(i, k) - mean) / (dof + distance[size_t(k)]);
      for (int64_t j = 0; j < s.p; ++j) {
        wanted_z[size_t(i * s.p + j)] += g * (z.at(i, j) - centroids.at(k, j));
        wanted_centroids[size_t(k * s.p + j)] -= g * (z.at(i, j) - centroids.at(k, j));
      }
    }
  }
  expect_all_close(dz, wanted_z, P::stored, "the gradient of z");
  expect_all_close(dcentroids, wanted_centroids, P::stored, "the gradient of the centroids");
}

template <class P>
void target(Shape s) {
  using T = typename P::Compute;
  const auto q = P::random_computed(s.n, s.K, 1);
  std::vector<double> totals = workspace<double>(s.K), frequency(size_t(s.K), 0.0);
  auto partial = workspace<double>(column_chunks(s.n, s.K) * s.K);
  auto inverse = workspace<T>(s.K);
  Matrix<T> out(s.n, s.K, P::computed);
  check(run_column_sums<T>(q.data(), s.n, s.K, partial.data(), false, totals.data(), nullptr));
  for (int64_t k = 0; k < s.K; ++k) {
    for (int64_t i = 0; i < s.n; ++i) frequency[size_t(k)] += q.at(i, k);
    expect_close(totals[size_t(k)], frequency[size_t(k)], P::computed, "the sum of a column");
  }
  const auto given = std::vector<T>(size_t(s.K), T(2));  // divides out; the random sums could vanish
  check(run_target<T>(q.data(), totals.data(), given.data(), s.n, s.K, inverse.data(), out.data(), nullptr));
  for (int64_t i = 0; i < s.n; ++i) {
    double sum = 0;
    for (int64_t k = 0; k < s.K; ++k) sum += q.at(i, k) * q.at(i, k);
    for (int64_t k = 0; k < s.K; ++k)
      expect_close(out.at(i, k), q.at(i, k) * q.at(i, k) / sum, P::computed, "a target");
  }
}

template <class P>
void orthogonality(Shape s) {
  using T = typename P::Compute;
  const auto bases = random_bases<P>(s);
  const int64_t C = s.K * s.d;
  const auto dot = [&](int64_t a, int64_t b) {
    double sum = 0;
    for (int64_t j = 0; j < s.p; ++j)
      sum += bases.get((a / s.d * s.p + j) * s.d + a % s.d) * bases.get((b / s.d * s.p + j) * s.d + b % s.d);
    return sum;
  };
  for (const bool orthonormal : {false, true}) {
    Blocks blocks{s.K, s.p, s.d, C <= s.p, orthonormal};
    auto rows = workspace<double>(C * s.p), gram = workspace<double>(blocks.size() * blocks.size()),
         block = workspace<double>(C * s.d), partial = workspace<double>(2 * kPenaltyBlocks),
         product = workspace<double>(C * s.p);
    blocks.rows = rows.data(), blocks.gram = gram.data(), blocks.block = block.data();
    auto moments = make_moments<double>(double_rows(blocks), double_rows(blocks), blocks.length());
    auto slots = workspace<double>(moment_slots(moments));
    moments.symmetric = true, moments.out = gram.data(), moments.slots = slots.data();
    Matrix<T> penalty(1, 1, P::computed), gradient(s.K * s.p, s.d, P::stored);
    const T upstream = 1;
    check(run_block_grams(bases.data(), P::stored, blocks, moments, nullptr));
    check(run_penalty<T>(blocks, partial.data(), penalty.data(), nullptr));
    auto panels = workspace<double>(plan_columns<double>(blocks.size(), blocks.size()).panel_elements());
    check(
        run_penalty_gradient<T>(blocks, panels.data(), product.data(), &upstream, gradient.data(), P::stored, nullptr));

    double wanted = 0;
    std::vector<double> wanted_gradient(size_t(C * s.p));
    for (int64_t a = 0; a < C; ++a)
      for (int64_t b = 0; b < C; ++b) {
        if (a / s.d == b / s.d && a != b && !orthonormal) continue;
        const double excess = dot(a, b) - (a == b);
        wanted += excess * excess;
        for (int64_t j = 0; j < s.p; ++j)
          wanted_gradient[size_t((a / s.d * s.p + j) * s.d + a % s.d)] +=
              4 * excess * bases.get((b / s.d * s.p + j) * s.d + b % s.d);
      }
    expect_close(penalty.get(0), wanted, P::computed, "the penalty");
    expect_all_close(gradient, wanted_gradient, P::stored, "the gradient of the penalty");
  }
}

// Gram matrices of segments, and the gradients of Σ_k ⟨grad_k, G_k⟩.
template <class P>
void segment_gram(Shape s) {
  using T = typename P::Compute;
  const int64_t p = s.p;
  const auto z = P::random(s.n, p, 1), weight = P::random_computed(s.n, 1, 2), grad = P::random_computed(s.K * p, p, 3);
  const SortedLabels sorted(s.n, s.K);
  const Rows rows = z.rows(sorted.order.data());
  Matrix<T> gram(s.K * p, p, P::computed), dz(s.n, p, P::stored), dweight(s.n, 1, P::computed);
  auto job = make_moments<T>(rows, rows, s.n, sorted.begin.data(), s.K);
  auto slots = workspace<T>(moment_slots(job));
  job.weight = weight.data(), job.symmetric = true, job.out = gram.data(), job.slots = slots.data();
  check(run_moments(job, nullptr));
  check(run_gram_rows<T>(
      {rows, s.n, s.K, sorted.begin.data(), grad.data(), weight.data(), dz.mutable_rows(), dweight.data()}, nullptr));
  std::vector<double> wanted(size_t(s.K * p * p)), wanted_z(size_t(s.n * p)), wanted_weight(size_t(s.n));
  for (int64_t i = 0; i < s.n; ++i)
    for (int64_t a = 0; a < p; ++a)
      for (int64_t b = 0; b < p; ++b) {
        const int64_t at = (sorted.labels[size_t(i)] * p + a) * p + b;
        wanted[size_t(at)] += weight.get(i) * z.at(i, a) * z.at(i, b);
        wanted_weight[size_t(i)] += grad.get(at) * z.at(i, a) * z.at(i, b);
        wanted_z[size_t(i * p + a)] += weight.get(i) * grad.get(at) * z.at(i, b);
        wanted_z[size_t(i * p + b)] += weight.get(i) * grad.get(at) * z.at(i, a);
      }
  expect_all_close(gram, wanted, P::computed, "a Gram matrix");
  expect_all_close(dz, wanted_z, P::stored, "the gradient of z");
  expect_all_close(dweight, wanted_weight, P::computed, "the gradient of the weights");
}

template <class F32, class F64, class BF16>
Cases all_cases() {
  Cases cases;
#define DESC_EXT_CASE(name) \
  if constexpr (compiled(#name)) cases[#name] = [] { over(name<F32>, name<F64>, name<BF16>); }
  DESC_EXT_CASE(projection_values);
  DESC_EXT_CASE(tensor_values);
  DESC_EXT_CASE(projection_gradient);
  DESC_EXT_CASE(tensor_gradient);
  DESC_EXT_CASE(nearest_gradient);
  DESC_EXT_CASE(soft_assignment);
  DESC_EXT_CASE(student);
  DESC_EXT_CASE(target);
  DESC_EXT_CASE(orthogonality);
  DESC_EXT_CASE(segment_gram);
#undef DESC_EXT_CASE
  return cases;
}

}  // namespace
}  // namespace desc_ext::sanitize

int main(int count, char** arguments) {
  using namespace desc_ext::sanitize;
  return run_cases(count, arguments, all_cases<F32, F64, BF16>());
}
