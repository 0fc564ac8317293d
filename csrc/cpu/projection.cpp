// Projection family on the CPU: energies, residuals, nearest subspace, weighted loss, and their gradients.
#include <tuple>
#include <vector>

#include "segments.h"

namespace desc_ext::cpu {

static Tensor projection_values(const char* op, const Tensor& z, const Tensor& bases, Metric metric) {
  check_bases(op, z, bases);
  const auto compute = compute_type(op, "z", z);
  const int64_t n = z.size(0);
  Tensor out = empty_of(z, {n, bases.size(0)}, compute);
  if (n == 0) return out;
  const Tensor rows = as_contiguous(z);
  dispatch(compute, [&]<class T>() {
    const PreparedBases<T> prepared(bases, metric);
    ProjectionForward<T> job{rows_of(rows), prepared.view, metric};
    job.values = mutable_data<T>(out);
    for_rows(n, 2.0 * bases.numel(), [&](int64_t begin, int64_t end) { prepared.forward(job, begin, end, nullptr); });
  });
  return out;
}

static Tensor projection_energy(const Tensor& z, const Tensor& bases, bool /*allow_tf32*/) {
  return projection_values("projection_energy", z, bases, Metric::energy);
}

static Tensor projection_residual(const Tensor& z, const Tensor& bases, bool /*allow_tf32*/) {
  return projection_values("projection_residual", z, bases, Metric::residual);
}

static std::tuple<Tensor, Tensor> projection_values_backward(const char* op, const Tensor& grad, const Tensor& z,
                                                             const Tensor& bases, Metric metric, bool need_z,
                                                             bool need_bases) {
  check_bases(op, z, bases);
  const auto compute = compute_type(op, "z", z);
  check_shape(op, "grad", grad, {z.size(0), bases.size(0)});
  check_type(op, "grad", grad, compute);
  const Tensor rows = as_contiguous(z), dense_bases = as_contiguous(bases), upstream = as_contiguous(grad);
  Tensor dz = gradient_like(rows, need_z), dbases = gradient_like(dense_bases, need_bases);
  dispatch(compute, [&]<class T>() {
    const PreparedBases<T> prepared(dense_bases, metric, {need_z, need_bases});
    ProjectionBackward<T> job{rows_of(rows), prepared.view, metric, data<T>(upstream)};
    if (need_z) job.dz = mutable_rows_of(dz);
    run_projection_backward<T>(prepared, job, z.size(0), need_bases ? &dbases : nullptr);
  });
  return {dz, dbases};
}

static std::tuple<Tensor, Tensor> projection_energy_backward(const Tensor& grad, const Tensor& z, const Tensor& bases,
                                                             bool need_z, bool need_bases) {
  return projection_values_backward("projection_energy_backward", grad, z, bases, Metric::energy, need_z, need_bases);
}

static std::tuple<Tensor, Tensor> projection_residual_backward(const Tensor& grad, const Tensor& z, const Tensor& bases,
                                                               bool need_z, bool need_bases) {
  return projection_values_backward("projection_residual_backward", grad, z, bases, Metric::residual, need_z,
                                    need_bases);
}

static std::tuple<Tensor, Tensor> nearest_subspace(const Tensor& z, const Tensor& bases, std::string metric_name,
                                                   bool /*allow_tf32*/) {
  const char* op = "nearest_subspace";
  check_bases(op, z, bases);
  const Metric metric = metric_of(op, metric_name);
  const auto compute = compute_type(op, "z", z);
  const int64_t n = z.size(0);
  Tensor labels = empty_of(z, {n}, ScalarType::Long), best = empty_of(z, {n}, compute);
  const Tensor rows = as_contiguous(z);
  dispatch(compute, [&]<class T>() {
    const PreparedBases<T> prepared(bases, metric);
    ProjectionForward<T> job{rows_of(rows), prepared.view, metric};
    job.labels = mutable_data<int64_t>(labels);
    job.best = mutable_data<T>(best);
    for_rows(n, 2.0 * bases.numel(), [&](int64_t begin, int64_t end) { prepared.forward(job, begin, end, nullptr); });
  });
  return {labels, best};
}

// Each row has one subspace: rows are taken by label, each group against its own basis alone.
static std::tuple<Tensor, Tensor> nearest_subspace_backward(const Tensor& grad, const Tensor& labels, const Tensor& z,
                                                            const Tensor& bases, std::string metric_name, bool need_z,
                                                            bool need_bases) {
  const char* op = "nearest_subspace_backward";
  check_bases(op, z, bases);
  const Metric metric = metric_of(op, metric_name);
  const auto compute = compute_type(op, "z", z);
  check_shape(op, "grad", grad, {z.size(0)});
  check_type(op, "grad", grad, compute);
  const Segments segments(op, labels, z.size(0), bases.size(0));
  const Tensor rows = as_contiguous(z), upstream = as_contiguous(grad);
  Tensor dense_bases = as_contiguous(bases);
  Tensor dz = gradient_like(rows, need_z), dbases = gradient_like(dense_bases, need_bases);
  dispatch(compute, [&]<class T>() {
    const int64_t K = bases.size(0), p = bases.size(1), d = bases.size(2), stride = padded<T>(p), size = d * stride;
    constexpr int64_t kRows = 1024;        // of one sum; by shape and labels alone
    std::vector<int64_t> first(K + 1, 0);  // sums of each basis
    for (int64_t k = 0; k < K; ++k)
      first[k + 1] = first[k] + (segments.begin[k + 1] - segments.begin[k] + kRows - 1) / kRows;
    const Rows source{dense_bases.const_data_ptr(), storage_of(dense_bases), p * d};
    const double work = 12.0 * double(size) * double(z.size(0)) / double(K);
    Array<T> columns(K * size), sums(need_bases ? first[K] * size : 0);
    OwnBasisBackward<T> job{rows_of(rows, segments.order), d, metric, columns, data<T>(upstream)};
    if (need_z) job.dz = mutable_rows_of(dz, segments.order);
    for_tasks(K, work, [&](int64_t begin, int64_t end) {
      Array<T> basis(p * d);
      for (int64_t k = begin; k < end; ++k) {
        table<T>().load_rows(source, k, 1, p * d, basis);
        table<T>().rows_to_columns(basis, p, d, stride, columns + k * size);
        for (int64_t part = first[k]; part < first[k + 1]; ++part) {
          const int64_t from = segments.begin[k] + (part - first[k]) * kRows;
          T* sum = need_bases ? sums + part * size : nullptr;
          if (sum) std::fill(sum, sum + size, T(0));
          table<T>().own_basis_backward(job, k, from, std::min(from + kRows, segments.begin[k + 1]), sum);
          if (part > first[k] && sum)
            for (int64_t i = 0; i < size; ++i) sums[first[k] * size + i] += sum[i];
        }
        if (!need_bases) continue;
        if (first[k] < first[k + 1])
          table<T>().columns_to_rows(sums + first[k] * size, p, d, stride, basis);
        else
          std::fill(basis + 0, basis + p * d, T(0));
        table<T>().store_row(MutableRows{dbases.mutable_data_ptr(), storage_of(dbases), p * d}, k, basis);
      }
    });
  });
  return {dz, dbases};
}

static Tensor weighted_projection_loss(const Tensor& z, const Tensor& bases, const Tensor& weight,
                                       bool /*allow_tf32*/) {
  const char* op = "weighted_projection_loss";
  check_weight(op, z, bases, weight);
  const auto compute = compute_type(op, "z", z);
  const int64_t n = z.size(0);
  Tensor out = empty_of(z, {}, compute);
  const Tensor rows = as_contiguous(z), weights = as_contiguous(weight);
  dispatch(compute, [&]<class T>() {
    const PreparedBases<T> prepared(bases, Metric::residual);
    ProjectionForward<T> job{rows_of(rows), prepared.view, Metric::residual};
    job.weight = data<T>(weights);
    std::vector<double> sums((n + kRowsOfASum - 1) / kRowsOfASum, 0.0);
    for_rows(n, 2.0 * bases.numel(),
             [&](int64_t begin, int64_t end) { prepared.forward(job, begin, end, sums.data()); });
    double total = 0;
    for (const double sum : sums) total += sum;
    *mutable_data<T>(out) = T(total);
  });
  return out;
}

static std::tuple<Tensor, Tensor, Tensor> weighted_projection_loss_backward(const Tensor& grad, const Tensor& z,
                                                                            const Tensor& bases, const Tensor& weight,
                                                                            bool need_z, bool need_bases,
                                                                            bool need_weight) {
  const char* op = "weighted_projection_loss_backward";
  check_weight(op, z, bases, weight);
  const auto compute = compute_type(op, "z", z);
  check_shape(op, "grad", grad, {});
  check_type(op, "grad", grad, compute);
  const Tensor rows = as_contiguous(z), dense_bases = as_contiguous(bases), weights = as_contiguous(weight);
  Tensor dz = gradient_like(rows, need_z), dbases = gradient_like(dense_bases, need_bases),
         dweight = gradient_like(weights, need_weight);
  dispatch(compute, [&]<class T>() {
    const PreparedBases<T> prepared(dense_bases, Metric::residual, {need_z, need_bases});
    ProjectionBackward<T> job{rows_of(rows), prepared.view, Metric::residual, data<T>(weights)};
    job.grad_factor = *data<T>(grad);
    if (need_z) job.dz = mutable_rows_of(dz);
    if (need_weight) job.values = mutable_data<T>(dweight);
    run_projection_backward<T>(prepared, job, z.size(0), need_bases ? &dbases : nullptr);
  });
  return {dz, dbases, dweight};
}

}  // namespace desc_ext::cpu

STABLE_TORCH_LIBRARY_IMPL(desc_ext, CPU, m) {
  using namespace desc_ext::cpu;
  m.impl("projection_energy", TORCH_BOX(&projection_energy));
  m.impl("projection_energy_backward", TORCH_BOX(&projection_energy_backward));
  m.impl("projection_residual", TORCH_BOX(&projection_residual));
  m.impl("projection_residual_backward", TORCH_BOX(&projection_residual_backward));
  m.impl("nearest_subspace", TORCH_BOX(&nearest_subspace));
  m.impl("nearest_subspace_backward", TORCH_BOX(&nearest_subspace_backward));
  m.impl("weighted_projection_loss", TORCH_BOX(&weighted_projection_loss));
  m.impl("weighted_projection_loss_backward", TORCH_BOX(&weighted_projection_loss_backward));
}
