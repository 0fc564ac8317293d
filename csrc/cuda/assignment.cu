// Assignment family on CUDA; csrc/cpu/assignment.cpp is its counterpart.
#include <cmath>

#include "assignment.cuh"
#include "gradients.h"

namespace desc_ext::cuda {

static std::tuple<Tensor, Tensor> subspace_soft_assignment(const Tensor& z, const Tensor& bases, double smoothing,
                                                           std::optional<Tensor> sample_weight, bool allow_tf32) {
  const char* op = "subspace_soft_assignment";
  check_bases(op, z, bases);
  check_same_device(op, "bases", bases, z);
  check_sample_weight(op, z, sample_weight);
  if (sample_weight) check_same_device(op, "sample_weight", *sample_weight, z);
  STD_TORCH_CHECK(std::isfinite(smoothing), op, ": smoothing must be finite, got ", smoothing);
  const auto compute = compute_type(op, "z", z);
  const Device device(z);
  const int64_t n = z.size(0), K = bases.size(0);
  Tensor assignment = empty_of(z, {n, K}, compute), total = empty_of(z, {n}, compute);
  if (n == 0) return {assignment, total};
  const Tensor rows = contiguous(z), weights = sample_weight ? contiguous(*sample_weight) : z;
  dispatch(compute, [&]<class T>() {
    PreparedBases<T> prepared(op, bases, Metric::energy, device);
    auto job = prepared.projection(rows, 0, n, allow_tf32);
    const ValuesLaunch<T> launch(job, z);
    T* values = mutable_data<T>(assignment);
    check_launch(op, run_values<T>(job, launch.grid, values, nullptr, device.stream));
    check_launch(op, run_normalise_energies<T>(values, sample_weight ? data<T>(weights) : nullptr,
                                               T(smoothing * double(bases.size(2))), n, K, mutable_data<T>(total),
                                               device.stream));
  });
  return {assignment, total};
}

static std::tuple<Tensor, Tensor> subspace_soft_assignment_backward(const Tensor& grad, const Tensor& assignment,
                                                                    const Tensor& total, const Tensor& z,
                                                                    const Tensor& bases,
                                                                    std::optional<Tensor> sample_weight, bool need_z,
                                                                    bool need_bases) {
  const char* op = "subspace_soft_assignment_backward";
  check_bases(op, z, bases);
  check_same_device(op, "bases", bases, z);
  check_sample_weight(op, z, sample_weight);
  if (sample_weight) check_same_device(op, "sample_weight", *sample_weight, z);
  const auto compute = compute_type(op, "z", z);
  const int64_t n = z.size(0), K = bases.size(0);
  for (const auto& [name, tensor] : {std::pair<const char*, const Tensor&>{"grad", grad}, {"assignment", assignment}}) {
    check_shape(op, name, tensor, {n, K});
    check_type(op, name, tensor, compute);
    check_same_device(op, name, tensor, z);
  }
  check_shape(op, "total", total, {n});
  check_type(op, "total", total, compute);
  check_same_device(op, "total", total, z);
  const Device device(z);
  const Tensor rows = contiguous(z), upstream = contiguous(grad), saved = contiguous(assignment),
               totals = contiguous(total), weights = sample_weight ? contiguous(*sample_weight) : z;
  Tensor dz = gradient_like(rows, need_z), dbases = gradient_like(contiguous(bases), need_bases);
  dispatch(compute, [&]<class T>() {
    ProjectionGradient<T> gradient(op, rows, bases, Metric::energy, device);
    Workspace<T> shift(z, n), factor(z, n);
    if (n > 0) {
      const Upstream<T> raw{data<T>(upstream), nullptr, nullptr, nullptr};
      check_launch(op, run_upstream_rows<T>(raw, data<T>(saved), n, K, shift, nullptr, device.stream));
      check_launch(op, run_normalise_factor<T>(sample_weight ? data<T>(weights) : nullptr, data<T>(totals), n, factor,
                                               device.stream));
    }
    gradient.run({data<T>(upstream), shift, factor, nullptr}, need_z ? &dz : nullptr, need_bases ? &dbases : nullptr);
  });
  return {dz, dbases};
}

// Centroids [K, p] in the type of the arithmetic, and as panels of the product engine.
template <class T>
struct PreparedCentroids {
  Plan plan;
  Workspace<T> rows, panels;

  PreparedCentroids(const char* op, const Tensor& centroids, const Device& device)
      : plan(plan_columns<T>(centroids.size(0), centroids.size(1), kDistanceColumns)),
        rows(centroids, centroids.numel()), panels(centroids, plan.panel_elements()) {
    // As bases of dimension 1: the conversion is all that happens to them.
    const BasisArrays<T> arrays{rows, rows, nullptr, nullptr, nullptr};
    check_launch(op, run_prepare_bases<T>(centroids.const_data_ptr(), storage_of(centroids), plan.count, plan.p, 1,
                                          Metric::energy, arrays, device.stream));
    check_launch(op, run_pack_panels<T>(plan, rows, false, nullptr, panels, device.stream));
  }
};

static Tensor student_t_assignment(const Tensor& z, const Tensor& centroids, double dof) {
  const char* op = "student_t_assignment";
  check_centroids(op, z, centroids, dof);
  check_same_device(op, "centroids", centroids, z);
  const auto compute = compute_type(op, "z", z);
  const Device device(z);
  const int64_t n = z.size(0), K = centroids.size(0);
  Tensor q = empty_of(z, {n, K}, compute);
  if (n == 0) return q;
  const Tensor rows = contiguous(z), dense = contiguous(centroids);
  dispatch(compute, [&]<class T>() {
    PreparedCentroids<T> prepared(op, dense, device);
    const auto job = make_product<T>(rows_of(rows), n, prepared.plan, prepared.panels);
    check_launch(op, run_distances<T>(job, mutable_data<T>(q), device.stream));
    check_launch(op, run_student_rows<T>(mutable_data<T>(q), T(dof), n, K, device.stream));
  });
  return q;
}

static std::tuple<Tensor, Tensor> student_t_assignment_backward(const Tensor& grad, const Tensor& assignment,
                                                                const Tensor& z, const Tensor& centroids, double dof,
                                                                bool need_z, bool need_centroids) {
  const char* op = "student_t_assignment_backward";
  check_centroids(op, z, centroids, dof);
  check_same_device(op, "centroids", centroids, z);
  const auto compute = compute_type(op, "z", z);
  const int64_t n = z.size(0), K = centroids.size(0), p = z.size(1);
  for (const auto& [name, tensor] : {std::pair<const char*, const Tensor&>{"grad", grad}, {"assignment", assignment}}) {
    check_shape(op, name, tensor, {n, K});
    check_type(op, name, tensor, compute);
    check_same_device(op, name, tensor, z);
  }
  const Device device(z);
  const Tensor rows = contiguous(z), dense = contiguous(centroids), upstream = contiguous(grad),
               saved = contiguous(assignment);
  Tensor dz = gradient_like(rows, need_z), dcentroids = gradient_like(dense, need_centroids);
  dispatch(compute, [&]<class T>() {
    const auto check = [&](cudaError_t error) { check_launch(op, error); };
    PreparedCentroids<T> prepared(op, dense, device);
    const Plan back_plan = plan_columns<T>(p, K);
    Workspace<T> back_panels(z, back_plan.panel_elements());
    check(run_pack_panels<T>(back_plan, prepared.rows, true, nullptr, back_panels, device.stream));
    const int64_t piece = piece_rows<T>(n, K, device.limits.piece);
    Workspace<T> h(z, piece * K), row_sum(z, piece), moments(z, K * p);
    Workspace<double> totals(z, K);
    moments.zero(), totals.zero();
    for (int64_t first = 0; first < n; first += piece) {
      const int64_t count = std::min(piece, n - first);
      const Rows here = rows_of(rows, first), weights{h.get(), kStorage<T>, K, nullptr};
      check(run_distances<T>(make_product<T>(here, count, prepared.plan, prepared.panels), h, device.stream));
      check(run_student_gradient<T>(h, data<T>(saved) + first * K, data<T>(upstream) + first * K, T(dof), count, K,
                                    row_sum, device.stream));
      if (need_z) {
        const RowsOut<T> out{mutable_rows_of(dz, first), here, row_sum, T(2), T(-1)};
        rows_to_out<T>(op, h, count, back_plan, back_panels, out, z, device);
      }
      if (!need_centroids) continue;
      auto job = make_moments<T>(weights, here, count);
      Workspace<double> partial(z, column_chunks(count, K) * K);
      job.out = moments, job.accumulate = true;
      moments_to_out(op, job, z, device);
      check(run_column_sums<T>(h, count, K, partial, true, totals, device.stream));
    }
    if (need_centroids)
      check(run_centroid_gradient<T>(moments, totals, dense.const_data_ptr(), K, p, dcentroids.mutable_data_ptr(),
                                     storage_of(dense), device.stream));
  });
  return {dz, dcentroids};
}

static Tensor target_distribution(const Tensor& q, std::optional<Tensor> frequency) {
  const char* op = "target_distribution";
  check_shape(op, "q", q, {-1, -1});
  const auto compute = compute_type(op, "q", q);
  check_type(op, "q", q, compute);
  if (frequency) {
    check_shape(op, "frequency", *frequency, {q.size(1)});
    check_type(op, "frequency", *frequency, compute);
    check_same_device(op, "frequency", *frequency, q);
  }
  const Device device(q);
  const int64_t n = q.size(0), K = q.size(1);
  const Tensor dense = contiguous(q), given = frequency ? contiguous(*frequency) : q;
  Tensor out = torch::stable::empty_like(dense);
  if (n == 0 || K == 0) return out;
  dispatch(compute, [&]<class T>() {
    Workspace<double> totals(q, K), partial(q, column_chunks(n, K) * K);
    Workspace<T> inverse(q, K);
    if (!frequency) check_launch(op, run_column_sums<T>(data<T>(dense), n, K, partial, false, totals, device.stream));
    check_launch(op, run_target<T>(data<T>(dense), totals, frequency ? data<T>(given) : nullptr, n, K, inverse,
                                   mutable_data<T>(out), device.stream));
  });
  return out;
}

}  // namespace desc_ext::cuda

DESC_EXT_CUDA_LIBRARY(m) {
  using namespace desc_ext::cuda;
  m.impl("subspace_soft_assignment", TORCH_BOX(&subspace_soft_assignment));
  m.impl("subspace_soft_assignment_backward", TORCH_BOX(&subspace_soft_assignment_backward));
  m.impl("student_t_assignment", TORCH_BOX(&student_t_assignment));
  m.impl("student_t_assignment_backward", TORCH_BOX(&student_t_assignment_backward));
  m.impl("target_distribution", TORCH_BOX(&target_distribution));
}
