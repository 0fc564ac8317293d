// Assignment family on the CPU: subspace soft assignment, Student-t assignment, target distribution.
#include <cmath>
#include <tuple>
#include <vector>

#include "operator.h"

namespace desc_ext::cpu {

static std::tuple<Tensor, Tensor> subspace_soft_assignment(const Tensor& z, const Tensor& bases, double smoothing,
                                                           std::optional<Tensor> sample_weight, bool /*allow_tf32*/) {
  const char* op = "subspace_soft_assignment";
  check_bases(op, z, bases);
  check_sample_weight(op, z, sample_weight);
  STD_TORCH_CHECK(std::isfinite(smoothing), op, ": smoothing must be finite, got ", smoothing);
  const auto compute = compute_type(op, "z", z);
  const int64_t n = z.size(0);
  Tensor assignment = empty_of(z, {n, bases.size(0)}, compute), total = empty_of(z, {n}, compute);
  const Tensor rows = as_contiguous(z), weights = sample_weight ? as_contiguous(*sample_weight) : z;
  dispatch(compute, [&]<class T>() {
    const PreparedBases<T> prepared(bases, Metric::energy);
    ProjectionForward<T> job{rows_of(rows), prepared.view, Metric::energy};
    job.sample_weight = sample_weight ? data<T>(weights) : nullptr;
    job.assignment = mutable_data<T>(assignment);
    job.total = mutable_data<T>(total);
    job.smoothing = T(smoothing * double(bases.size(2)));
    for_rows(n, 2.0 * bases.numel(), [&](int64_t begin, int64_t end) { prepared.forward(job, begin, end, nullptr); });
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
  check_sample_weight(op, z, sample_weight);
  const auto compute = compute_type(op, "z", z);
  for (const auto& [name, tensor] : {std::pair<const char*, const Tensor&>{"grad", grad}, {"assignment", assignment}}) {
    check_shape(op, name, tensor, {z.size(0), bases.size(0)});
    check_type(op, name, tensor, compute);
  }
  check_shape(op, "total", total, {z.size(0)});
  check_type(op, "total", total, compute);
  const Tensor rows = as_contiguous(z), dense_bases = as_contiguous(bases), upstream = as_contiguous(grad),
               saved = as_contiguous(assignment), totals = as_contiguous(total),
               weights = sample_weight ? as_contiguous(*sample_weight) : z;
  Tensor dz = gradient_like(rows, need_z), dbases = gradient_like(dense_bases, need_bases);
  dispatch(compute, [&]<class T>() {
    const PreparedBases<T> prepared(dense_bases, Metric::energy, {need_z, need_bases});
    ProjectionBackward<T> job{rows_of(rows), prepared.view, Metric::energy, data<T>(upstream)};
    job.assignment = data<T>(saved);
    job.total = data<T>(totals);
    job.sample_weight = sample_weight ? data<T>(weights) : nullptr;
    if (need_z) job.dz = mutable_rows_of(dz);
    run_projection_backward<T>(prepared, job, z.size(0), need_bases ? &dbases : nullptr);
  });
  return {dz, dbases};
}

// Centroids [K, p] as panels for distances and, backward, for the gradient of z.
template <class T>
struct PreparedCentroids {
  Array<T> rows, panels, back_panels;
  PreparedCentroids(const Tensor& centroids, StudentT<T>& job) {
    const int64_t K = centroids.size(0), p = centroids.size(1);
    job.K = K, job.stride = padded<T>(p);
    const Tensor dense = as_contiguous(centroids);
    rows = Array<T>(K * job.stride), panels = Array<T>(K * p), back_panels = Array<T>(K * p);
    table<T>().load_rows(rows_of(dense), 0, K, job.stride, rows);
    table<T>().pack_panels(rows, job.stride, K, p, K, panels);
    table<T>().pack_transposed(rows, job.stride, nullptr, p, K, back_panels);
    job.rows = rows, job.panels = panels, job.back_panels = back_panels;
  }
};

static Tensor student_t_assignment(const Tensor& z, const Tensor& centroids, double dof) {
  const char* op = "student_t_assignment";
  check_centroids(op, z, centroids, dof);
  const auto compute = compute_type(op, "z", z);
  const int64_t n = z.size(0);
  Tensor q = empty_of(z, {n, centroids.size(0)}, compute);
  const Tensor rows = as_contiguous(z);
  dispatch(compute, [&]<class T>() {
    StudentT<T> job{};
    job.z = rows_of(rows), job.dof = T(dof), job.q = mutable_data<T>(q);
    const PreparedCentroids<T> prepared(centroids, job);
    for_rows(n, 3.0 * centroids.numel(),
             [&](int64_t begin, int64_t end) { table<T>().student_t_forward(job, begin, end); });
  });
  return q;
}

static std::tuple<Tensor, Tensor> student_t_assignment_backward(const Tensor& grad, const Tensor& assignment,
                                                                const Tensor& z, const Tensor& centroids, double dof,
                                                                bool need_z, bool need_centroids) {
  const char* op = "student_t_assignment_backward";
  check_centroids(op, z, centroids, dof);
  const auto compute = compute_type(op, "z", z);
  const int64_t n = z.size(0), K = centroids.size(0), p = z.size(1);
  for (const auto& [name, tensor] : {std::pair<const char*, const Tensor&>{"grad", grad}, {"assignment", assignment}}) {
    check_shape(op, name, tensor, {n, K});
    check_type(op, name, tensor, compute);
  }
  const Tensor rows = as_contiguous(z), dense = as_contiguous(centroids), upstream = as_contiguous(grad),
               saved = as_contiguous(assignment);
  Tensor dz = gradient_like(rows, need_z), dcentroids = gradient_like(dense, need_centroids);
  dispatch(compute, [&]<class T>() {
    StudentT<T> job{};
    job.z = rows_of(rows), job.dof = T(dof), job.grad = data<T>(upstream), job.saved_q = data<T>(saved);
    if (need_z) job.dz = mutable_rows_of(dz);
    const PreparedCentroids<T> prepared(dense, job);
    const int64_t elements = K * job.stride;
    const Chunks chunks(n, elements, sizeof(T));
    Array<T> sums(chunks.count * elements);
    Array<double> weight_sums(chunks.count * K);
    for_chunks(chunks, 7.0 * double(K * p), [&](int64_t chunk) {
      T* sum = sums + chunk * elements;
      double* weight_sum = weight_sums + chunk * K;
      std::fill(sum, sum + elements, T(0));
      std::fill(weight_sum, weight_sum + K, 0.0);
      table<T>().student_t_backward(job, chunks.begin(chunk), chunks.end(chunk), need_centroids ? sum : nullptr,
                                    need_centroids ? weight_sum : nullptr);
    });
    if (!need_centroids) return;
    add_partial_sums<T>(sums, chunks.count, elements);
    add_partial_sums<double>(weight_sums, chunks.count, K);
    Array<T> line(p);
    for (int64_t k = 0; k < K; ++k) {
      const T* mu = prepared.rows + k * job.stride;
      for (int64_t j = 0; j < p; ++j)
        line[j] = T(2 * (weight_sums[k] * double(mu[j]) - double(sums[k * job.stride + j])));
      table<T>().store_row(mutable_rows_of(dcentroids), k, line);
    }
  });
  return {dz, dcentroids};
}

// t_ik ∝ q_ik² / f_k. Column sums are kept in double and by chunks of rows.
template <class T>
static void target_rows(const T* q, int64_t n, int64_t K, const T* given, T* out) {
  Array<double> frequency(K);
  if (given) {
    std::copy(given, given + K, frequency.get());
  } else {
    const Chunks chunks(n, K, sizeof(double));
    Array<double> sums(chunks.count * K);
    for_each_task(chunks.count, [&](int64_t chunk) {
      double* sum = sums + chunk * K;
      std::fill(sum, sum + K, 0.0);
      for (int64_t i = chunks.begin(chunk); i < chunks.end(chunk); ++i)
        for (int64_t k = 0; k < K; ++k) sum[k] += double(q[i * K + k]);
    });
    add_partial_sums<double>(sums, chunks.count, K);
    std::copy(sums.get(), sums + K, frequency.get());
  }
  Array<T> inverse(K);
  // A cluster nobody is in has q = 0 in its column: its share of the target is 0, not 0/0.
  for (int64_t k = 0; k < K; ++k) inverse[k] = frequency[k] != 0 ? T(1 / frequency[k]) : T(0);
  for_rows(n, 4.0 * K, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T* row = q + i * K;
      T* to = out + i * K;
      T total = 0;
      for (int64_t k = 0; k < K; ++k) {
        to[k] = row[k] * row[k] * inverse[k];
        total += to[k];
      }
      for (int64_t k = 0; k < K; ++k) to[k] /= total;
    }
  });
}

static Tensor target_distribution(const Tensor& q, std::optional<Tensor> frequency) {
  const char* op = "target_distribution";
  check_shape(op, "q", q, {-1, -1});
  const auto compute = compute_type(op, "q", q);
  check_type(op, "q", q, compute);
  if (frequency) {
    check_shape(op, "frequency", *frequency, {q.size(1)});
    check_type(op, "frequency", *frequency, compute);
  }
  const Tensor dense = as_contiguous(q), given = frequency ? as_contiguous(*frequency) : q;
  Tensor out = like(dense);
  dispatch(compute, [&]<class T>() {
    target_rows<T>(data<T>(dense), q.size(0), q.size(1), frequency ? data<T>(given) : nullptr, mutable_data<T>(out));
  });
  return out;
}

}  // namespace desc_ext::cpu

STABLE_TORCH_LIBRARY_IMPL(desc_ext, CPU, m) {
  using namespace desc_ext::cpu;
  m.impl("subspace_soft_assignment", TORCH_BOX(&subspace_soft_assignment));
  m.impl("subspace_soft_assignment_backward", TORCH_BOX(&subspace_soft_assignment_backward));
  m.impl("student_t_assignment", TORCH_BOX(&student_t_assignment));
  m.impl("student_t_assignment_backward", TORCH_BOX(&student_t_assignment_backward));
  m.impl("target_distribution", TORCH_BOX(&target_distribution));
}
