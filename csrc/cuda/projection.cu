// Projection family on CUDA; csrc/cpu/projection.cpp is its counterpart.
#include "gradients.h"

namespace desc_ext::cuda {

static Tensor projection_values(const char* op, const Tensor& z, const Tensor& bases, Metric metric, bool allow_tf32) {
  check_bases(op, z, bases);
  check_same_device(op, "bases", bases, z);
  const auto compute = compute_type(op, "z", z);
  const Device device(z);
  const int64_t n = z.size(0);
  Tensor out = empty_of(z, {n, bases.size(0)}, compute);
  if (n == 0) return out;
  const Tensor rows = contiguous(z);
  dispatch(compute, [&]<class T>() {
    PreparedBases<T> prepared(op, bases, metric, device);
    auto job = prepared.projection(rows, 0, n, allow_tf32);
    const ValuesLaunch<T> launch(job, z);
    check_launch(op, run_values<T>(job, launch.grid, mutable_data<T>(out), nullptr, device.stream));
  });
  return out;
}

static Tensor projection_energy(const Tensor& z, const Tensor& bases, bool allow_tf32) {
  return projection_values("projection_energy", z, bases, Metric::energy, allow_tf32);
}

static Tensor projection_residual(const Tensor& z, const Tensor& bases, bool allow_tf32) {
  return projection_values("projection_residual", z, bases, Metric::residual, allow_tf32);
}

static std::tuple<Tensor, Tensor> projection_values_backward(const char* op, const Tensor& grad, const Tensor& z,
                                                             const Tensor& bases, Metric metric, bool need_z,
                                                             bool need_bases) {
  check_bases(op, z, bases);
  const auto compute = compute_type(op, "z", z);
  check_shape(op, "grad", grad, {z.size(0), bases.size(0)});
  check_type(op, "grad", grad, compute);
  check_same_device(op, "bases", bases, z);
  check_same_device(op, "grad", grad, z);
  const Device device(z);
  const Tensor rows = contiguous(z), upstream = contiguous(grad);
  Tensor dz = gradient_like(rows, need_z), dbases = gradient_like(contiguous(bases), need_bases);
  dispatch(compute, [&]<class T>() {
    ProjectionGradient<T> gradient(op, rows, bases, metric, device);
    gradient.run({data<T>(upstream), nullptr, nullptr, nullptr}, need_z ? &dz : nullptr,
                 need_bases ? &dbases : nullptr);
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
                                                   bool allow_tf32) {
  const char* op = "nearest_subspace";
  check_bases(op, z, bases);
  check_same_device(op, "bases", bases, z);
  const Metric metric = metric_of(op, metric_name);
  const auto compute = compute_type(op, "z", z);
  const Device device(z);
  const int64_t n = z.size(0);
  Tensor labels = empty_of(z, {n}, ScalarType::Long), best = empty_of(z, {n}, compute);
  if (n == 0) return {labels, best};
  const Tensor rows = contiguous(z);
  dispatch(compute, [&]<class T>() {
    PreparedBases<T> prepared(op, bases, metric, device);
    // In pieces, because the shares of a grid that cuts the bases keep a candidate for each row.
    const int64_t piece = piece_rows<T>(n, 16, device.limits.piece);
    for (int64_t first = 0; first < n; first += piece) {
      const int64_t count = std::min(piece, n - first);
      auto job = prepared.projection(rows, first, count, allow_tf32);
      const ValuesLaunch<T> launch(job, z);
      Workspace<int> candidate(z, launch.grid.y * count);
      Workspace<T> value(z, launch.grid.y * count);
      check_launch(op, run_nearest<T>(job, launch.grid, candidate, value, mutable_data<int64_t>(labels) + first,
                                      mutable_data<T>(best) + first, device.stream));
    }
  });
  return {labels, best};
}

static std::tuple<Tensor, Tensor> nearest_subspace_backward(const Tensor& grad, const Tensor& labels, const Tensor& z,
                                                            const Tensor& bases, std::string metric_name, bool need_z,
                                                            bool need_bases) {
  const char* op = "nearest_subspace_backward";
  check_bases(op, z, bases);
  const Metric metric = metric_of(op, metric_name);
  const auto compute = compute_type(op, "z", z);
  const int64_t n = z.size(0), K = bases.size(0), p = bases.size(1), d = bases.size(2);
  check_shape(op, "grad", grad, {n});
  check_type(op, "grad", grad, compute);
  check_labels(op, labels, z);
  check_same_device(op, "bases", bases, z);
  check_same_device(op, "grad", grad, z);
  const Device device(z);
  const Tensor rows = contiguous(z), upstream = contiguous(grad), label = contiguous(labels);
  Tensor dz = gradient_like(rows, need_z), dbases = gradient_like(contiguous(bases), need_bases);
  dispatch(compute, [&]<class T>() {
    PreparedBases<T> prepared(op, bases, metric, device);
    const int64_t piece = piece_rows<T>(n, d, device.limits.piece);
    Workspace<T> coefficients(z, piece * d);
    std::optional<Workspace<T>> moments;
    if (need_bases) moments.emplace(z, K * d * p).zero();
    for (int64_t first = 0; first < n; first += piece) {
      const int64_t count = std::min(piece, n - first);
      OwnSubspace<T> own{rows_of(rows, first),
                         count,
                         p,
                         d,
                         metric,
                         data<int64_t>(label) + first,
                         data<T>(upstream) + first,
                         prepared.arrays.rotated,
                         prepared.arrays.scale,
                         coefficients,
                         {}};
      if (need_z) own.dz = mutable_rows_of(dz, first);
      check_launch(op, run_own_subspace<T>(own, device.stream));
      if (!need_bases) continue;
      SortedLabels sorted(op, label, first, count, K, device);
      auto job = make_moments<T>({coefficients.get(), kStorage<T>, d, sorted.order()},
                                 rows_of(rows, first, sorted.order()), count, sorted.begin(), K);
      job.out = *moments, job.accumulate = true;
      moments_to_out(op, job, z, device);
    }
    if (need_bases) prepared.gradient(*moments, dbases);
  });
  return {dz, dbases};
}

static void check_loss(const char* op, const Tensor& z, const Tensor& bases, const Tensor& weight) {
  check_weight(op, z, bases, weight);
  check_same_device(op, "bases", bases, z);
  check_same_device(op, "weight", weight, z);
}

static Tensor weighted_projection_loss(const Tensor& z, const Tensor& bases, const Tensor& weight, bool allow_tf32) {
  const char* op = "weighted_projection_loss";
  check_loss(op, z, bases, weight);
  const auto compute = compute_type(op, "z", z);
  const Device device(z);
  const int64_t n = z.size(0);
  Tensor out = empty_of(z, {}, compute);
  if (n == 0) return torch::stable::zero_(out);
  const Tensor rows = contiguous(z), weights = contiguous(weight);
  dispatch(compute, [&]<class T>() {
    PreparedBases<T> prepared(op, bases, Metric::residual, device);
    auto job = prepared.projection(rows, 0, n, allow_tf32);
    const ValuesLaunch<T> launch(job, z);
    Workspace<double> partial(z, int64_t(launch.grid.x) * launch.grid.y);
    check_launch(op, run_loss<T>(job, launch.grid, data<T>(weights), partial, mutable_data<T>(out), device.stream));
  });
  return out;
}

static std::tuple<Tensor, Tensor, Tensor> weighted_projection_loss_backward(const Tensor& grad, const Tensor& z,
                                                                            const Tensor& bases, const Tensor& weight,
                                                                            bool need_z, bool need_bases,
                                                                            bool need_weight) {
  const char* op = "weighted_projection_loss_backward";
  check_loss(op, z, bases, weight);
  const auto compute = compute_type(op, "z", z);
  check_shape(op, "grad", grad, {});
  check_type(op, "grad", grad, compute);
  check_same_device(op, "grad", grad, z);
  const Device device(z);
  const int64_t n = z.size(0);
  const Tensor rows = contiguous(z), weights = contiguous(weight), upstream = contiguous(grad);
  Tensor dz = gradient_like(rows, need_z), dbases = gradient_like(contiguous(bases), need_bases),
         dweight = gradient_like(weights, need_weight);
  dispatch(compute, [&]<class T>() {
    ProjectionGradient<T> gradient(op, rows, bases, Metric::residual, device);
    if (need_weight && n > 0) {
      auto job = gradient.prepared.projection(rows, 0, n);
      const ValuesLaunch<T> launch(job, z);
      check_launch(op, run_values<T>(job, launch.grid, mutable_data<T>(dweight), data<T>(upstream), device.stream));
    }
    gradient.run({data<T>(weights), nullptr, nullptr, data<T>(upstream)}, need_z ? &dz : nullptr,
                 need_bases ? &dbases : nullptr);
  });
  return {dz, dbases, dweight};
}

}  // namespace desc_ext::cuda

DESC_EXT_CUDA_LIBRARY(m) {
  using namespace desc_ext::cuda;
  m.impl("projection_energy", TORCH_BOX(&projection_energy));
  m.impl("projection_energy_backward", TORCH_BOX(&projection_energy_backward));
  m.impl("projection_residual", TORCH_BOX(&projection_residual));
  m.impl("projection_residual_backward", TORCH_BOX(&projection_residual_backward));
  m.impl("nearest_subspace", TORCH_BOX(&nearest_subspace));
  m.impl("nearest_subspace_backward", TORCH_BOX(&nearest_subspace_backward));
  m.impl("weighted_projection_loss", TORCH_BOX(&weighted_projection_loss));
  m.impl("weighted_projection_loss_backward", TORCH_BOX(&weighted_projection_loss_backward));
}
