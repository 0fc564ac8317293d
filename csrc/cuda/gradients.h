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
    const bool residual = prepared.metric == Metric::residual;
    const T* factor = residual ? prepared.arrays.scale : nullptr;
    // What a product takes its columns from: the rotated bases, and the same across.
    Panels forth(*this, storage_of(z_), C, p, false, nullptr), back(*this, Storage::f32, dz ? p : 0, C, true, factor);
    // Tensor cores are fast enough for the way to memory to count: their coefficients stay in L2.
    constexpr int64_t in_l2 = int64_t(24) << 20;
    const int64_t bytes = forth.parts ? std::min(device_.limits.piece, in_l2) : device_.limits.piece;
    const int64_t piece = piece_rows<T>(n, C, bytes);
    Workspace<T> coefficients(z_, piece * C), row_sum(z_, residual ? piece : 0), moments(z_, dbases ? C * p : 0);
    if (dbases) moments.zero();
    for (int64_t first = 0; first < n; first += piece) {
      const int64_t count = std::min(piece, n - first);
      const Upstream<T> here = shifted(upstream, first);
      const Rows rows = rows_of(z_, first), weighted{coefficients.get(), kStorage<T>, C, nullptr};
      coefficients_of(rows, count, forth, here, coefficients);
      if (dz) {
        if (residual) check(run_upstream_rows<T>(here, nullptr, count, K, nullptr, row_sum, device_.stream));
        const RowsOut<T> out{mutable_rows_of(*dz, first), rows, residual ? row_sum.get() : nullptr, T(2),
                             T(residual ? -1 : 1)};
        rows_of_gradient(coefficients, count, back, out);
      }
      if (dbases) add_moments(weighted, rows, count, moments);
    }
    if (dbases) prepared.gradient(moments, *dbases);
  }

 private:
  // The panels of one product's columns, for tensor cores where `parts` is not 0.
  struct Panels {
    Columns source{};
    int parts = 0;
    Plan plan{};
    Workspace<T> panels, scales;

    Panels(const ProjectionGradient& g, Storage rows, int64_t count, int64_t depth, bool across, const T* factor)
        : parts(sizeof(T) == 4 && count ? tensor_parts_of_columns(rows, count, depth) : 0),
          plan(!count  ? Plan{}
               : parts ? plan_tensor_columns(count, depth)
                       : plan_columns<T>(count, depth)),
          panels(g.z_, count ? plan.panel_elements() : 0), scales(g.z_, parts ? 2 * plan.scale_elements() : 0) {
      if (!count) return;
      const T* rotated = g.prepared.arrays.rotated;
      if constexpr (sizeof(T) == 4) {
        source = {rotated, count, depth, across, factor};
        if (parts) g.check(run_pack_tensor_panels(plan, source, nullptr, panels, scales, g.device_.stream));
      }
      if (!parts) g.check(run_pack_panels<T>(plan, rotated, across, factor, panels, g.device_.stream));
    }
  };

  void coefficients_of(const Rows& rows, int64_t n, Panels& forth, const Upstream<T>& upstream, T* out) const {
    if constexpr (sizeof(T) == 4)
      if (forth.parts)
        return check(run_tensor_coefficients(forth.parts, tensor_product(rows, n, forth.plan, forth.panels),
                                             forth.source, forth.scales, upstream, prepared.d, out, device_.stream));
    check(run_coefficients<T>(make_product<T>(rows, n, forth.plan, forth.panels), upstream, prepared.d, out,
                              device_.stream));
  }

  void rows_of_gradient(const T* weights, int64_t n, Panels& back, const RowsOut<T>& out) const {
    if constexpr (sizeof(T) == 4)
      if (back.parts) {
        const Rows rows{weights, Storage::f32, back.source.depth, nullptr};
        return check(run_tensor_rows(tensor_product(rows, n, back.plan, back.panels), back.source, back.scales, out,
                                     device_.stream));
      }
    rows_to_out<T>(op_, weights, n, back.plan, back.panels, out, z_, device_);
  }

  void add_moments(const Rows& weights, const Rows& rows, int64_t n, T* out) const {
    auto job = make_moments<T>(weights, rows, n);
    job.out = out, job.accumulate = true;
    if constexpr (sizeof(T) == 4)
      if (takes_tensor_moments(weights.width, rows.width)) {
        job.chunks = tensor_moment_chunks(n, weights.width, rows.width);
        Workspace<T> slots(z_, moment_slots(job));
        job.slots = slots;
        return check(run_tensor_moments(job, device_.stream));
      }
    moments_to_out(op_, job, z_, device_);
  }

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
