// What backward operators of several families share: rows sorted by label, and the gradients of projections.
#pragma once

#include "operator.h"
#include "segments.cuh"

namespace desc_ext::cuda {

inline void check_labels(const char* op, const Tensor& labels, const Tensor& z) {
  check_shape(op, "labels", labels, {z.size(0)});
  STD_TORCH_CHECK(labels.scalar_type() == ScalarType::Long, op, ": labels must be int64");
  check_same_device(op, "labels", labels, z);
}

// The rows [first, first + n) by label; positions count from `first`. Labels are contiguous.
class SortedLabels {
 public:
  SortedLabels(const char* op, const Tensor& labels, int64_t first, int64_t n, int64_t segments, const Device& device)
      : chunks_(label_chunks(n, segments)), begin_(labels, segments + 1), order_(labels, n),
        counts_(labels, chunks_ * segments) {
    counts_.zero();
    const LabelSort sort{data<int64_t>(labels) + first, n, segments, chunks_, begin_, order_, counts_};
    check_launch(op, run_sort_labels(sort, device.stream));
  }
  const int64_t* begin() { return begin_; }
  const int64_t* order() { return order_; }

 private:
  int chunks_;
  Workspace<int64_t> begin_, order_, counts_;
};

// Gradients of Σ_ik g_ik value_ik with value the energy or residual and g the effective upstream gradient.
template <class T>
class ProjectionGradient {
 public:
  PreparedBases<T> prepared;

  // `z` is contiguous.
  ProjectionGradient(const char* op, const Tensor& z, const Tensor& bases, Metric metric, const Device& device)
      : prepared(op, bases, metric, device), op_(op), z_(z), device_(device) {}

  void run(const Upstream<T>& upstream, Tensor* dz, Tensor* dbases) {
    const int64_t n = z_.size(0), K = prepared.K, p = prepared.p, C = K * prepared.d;
    if (!dz && !dbases) return;
    const Plan plan = plan_columns<T>(C, p), back_plan = plan_columns<T>(p, C);
    Workspace<T> panels(z_, plan.panel_elements()), back_panels(z_, dz ? back_plan.panel_elements() : 0);
    check(run_pack_panels<T>(plan, prepared.arrays.rotated, false, nullptr, panels, device_.stream));
    const bool residual = prepared.metric == Metric::residual;
    if (dz)
      check(run_pack_panels<T>(back_plan, prepared.arrays.rotated, true, residual ? prepared.arrays.scale : nullptr,
                               back_panels, device_.stream));
    const int64_t piece = piece_rows<T>(n, C, device_.limits.piece);
    Workspace<T> coefficients(z_, piece * C), row_sum(z_, residual ? piece : 0), moments(z_, dbases ? C * p : 0);
    if (dbases) moments.zero();
    for (int64_t first = 0; first < n; first += piece) {
      const int64_t count = std::min(piece, n - first);
      const Upstream<T> here = shifted(upstream, first);
      const Rows rows = rows_of(z_, first), weighted{coefficients.get(), kStorage<T>, C, nullptr};
      check(run_coefficients<T>(make_product<T>(rows, count, plan, panels), here, prepared.d, coefficients,
                                device_.stream));
      if (dz) {
        if (residual) check(run_upstream_rows<T>(here, nullptr, count, K, nullptr, row_sum, device_.stream));
        const RowsOut<T> out{mutable_rows_of(*dz, first), rows, residual ? row_sum.get() : nullptr, T(2),
                             T(residual ? -1 : 1)};
        rows_to_out<T>(op_, coefficients, count, back_plan, back_panels, out, z_, device_);
      }
      if (dbases) {
        auto job = make_moments<T>(weighted, rows, count);
        job.out = moments, job.accumulate = true;
        moments_to_out(op_, job, z_, device_);
      }
    }
    if (dbases) prepared.gradient(moments, *dbases);
  }

 private:
  void check(cudaError_t error) const { check_launch(op_, error); }
  Upstream<T> shifted(const Upstream<T>& upstream, int64_t first) const {
    return {upstream.grad + first * prepared.K, upstream.shift ? upstream.shift + first : nullptr,
            upstream.factor ? upstream.factor + first : nullptr, upstream.scalar};
  }

  const char* op_;
  const Tensor& z_;
  const Device& device_;
};

}  // namespace desc_ext::cuda
