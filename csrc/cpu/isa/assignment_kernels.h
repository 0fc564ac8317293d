// Assignment family: Student-t assignment to K centroids. Squared distances are summed as (z − μ)², which does not
// cancel. Operations: 3·n·p·K forward; 4·n·p·K backward, 7 where ν ≠ 1.
#pragma once

#include <cmath>

#include "block.h"

namespace desc_ext::cpu::DESC_EXT_ISA {

// Squared distances of strip s to all centroids, [K][R].
template <class T>
static inline void squared_distances(const Block<T>& block, int64_t s, int64_t K, const T* panels, T* out) {
  const PanelCut cut(K, K);
  for (int64_t k = 0; k < K;) {
    const int64_t width = cut.width(k);
    panel_product<T, true>(block.strip(s), panels + k * block.p, width, block.p, out + k * kStrip<T>, false);
    k += width;
  }
}

// From squared distances to q, in place; every kernel value is divided by the row's largest, so none underflows alone.
template <class T>
static inline void student_t_rows(T* values, int64_t K, T dof) {
  constexpr int R = kStrip<T>;
  T nearest[R], total[R];
  for (int r = 0; r < R; ++r) nearest[r] = values[r], total[r] = 0;
  for (int64_t k = 1; k < K; ++k)
    for (int r = 0; r < R; ++r) nearest[r] = values[k * R + r] < nearest[r] ? values[k * R + r] : nearest[r];
  const T power = (dof + 1) / 2;
  for (int64_t k = 0; k < K; ++k)
    for (int r = 0; r < R; ++r) {
      T& x = values[k * R + r];
      x = (dof + nearest[r]) / (dof + x);
      if (dof != T(1)) x = std::pow(x, power);
      total[r] += x;
    }
  for (int64_t k = 0; k < K; ++k)
    for (int r = 0; r < R; ++r) values[k * R + r] /= total[r];
}

template <class T>
static void student_t_forward(const StudentT<T>& job, int64_t begin, int64_t end) {
  Block<T> block(job.z, job.stride);
  Buffer<T> values(job.K * kStrip<T>);
  for (; begin < end; begin += block.count) {
    block.load(job.z, begin, end);
    for (int64_t s = 0; s < block.strips; ++s) {
      squared_distances<T>(block, s, job.K, job.panels, values);
      student_t_rows<T>(values, job.K, job.dof);
      block.store_columns(values, job.K, s, 0, job.K, job.q);
    }
  }
}

// 1/(ν + ‖z_i − μ_k‖²) of strip s for ν = 1, out of q, which is that over its row's sum: the sum follows from the
// nearest centroid, so one distance a row is computed and not K. Padding gets 0.
template <class T>
static inline void kernels_from_q(const Block<T>& block, int64_t s, const StudentT<T>& job, const T* q, T* out) {
  constexpr int L = kLanes<T>, R = kStrip<T>;
  using Index = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  T factor[R] = {}, largest[R];
  Index nearest[R] = {};
  for (int r = 0; r < R; ++r) largest[r] = q[r];
  for (int64_t k = 1; k < job.K; ++k)
    for (int r = 0; r < R; ++r) {
      const bool more = q[k * R + r] > largest[r];
      nearest[r] = more ? Index(k) : nearest[r];
      largest[r] = more ? q[k * R + r] : largest[r];
    }
  for (int64_t r = 0; r < block.rows_in(s); ++r) {
    const T *z = block.rows + (s * R + r) * job.stride, *mu = job.rows + nearest[r] * job.stride;
    Vector<T> sum{};
    for (int64_t j = 0; j < job.stride; j += L) {
      const Vector<T> x = load(z + j) - load(mu + j);
      sum += x * x;
    }
    factor[r] = 1 / ((job.dof + lane_sum<T>(sum)) * largest[r]);
  }
  for (int64_t k = 0; k < job.K; ++k)
    for (int r = 0; r < R; ++r) out[k * R + r] = q[k * R + r] * factor[r];
}

// h_ik = ∂loss/∂‖z_i − μ_k‖² = −(ν+1)/2 · q (g − Σ_k g q) / (ν + ‖z − μ‖²); then dz = 2 (Σ_k h) z − 2 Σ_k h μ_k.
template <class T>
static void student_t_backward(const StudentT<T>& job, int64_t begin, int64_t end, T* centroid_sum,
                               double* weight_sum) {
  constexpr int L = kLanes<T>, R = kStrip<T>;
  const int64_t K = job.K, p = job.z.columns;
  const PanelCut cut(p, p);
  Block<T> block(job.z, job.stride);
  Buffer<T> h(block.capacity * K), q(K * R), grad(K * R), scratch(R * std::max(job.stride, K + L)), dz(p * R);
  for (; begin < end; begin += block.count) {
    block.load(job.z, begin, end);
    for (int64_t s = 0; s < block.strips; ++s) {
      T *here = h + s * K * R, mean[R] = {}, row_sum[R] = {};
      block.load_columns(job.saved_q, K, s, 0, K, scratch, q);
      if (job.dof == T(1)) {
        kernels_from_q(block, s, job, static_cast<const T*>(q), here);
      } else {
        squared_distances(block, s, K, job.panels, here);
        for (int64_t i = 0; i < K * R; ++i) here[i] = 1 / (job.dof + here[i]);
      }
      block.load_columns(job.grad, K, s, 0, K, scratch, grad);
      for (int64_t k = 0; k < K; ++k)
        for (int r = 0; r < R; ++r) mean[r] += grad[k * R + r] * q[k * R + r];
      for (int64_t k = 0; k < K; ++k) {
        double column = 0;
        for (int r = 0; r < R; ++r) {
          T& x = here[k * R + r];
          x *= -(job.dof + 1) / 2 * q[k * R + r] * (grad[k * R + r] - mean[r]);
          row_sum[r] += x;
          column += double(x);
        }
        if (weight_sum) weight_sum[k] += column;
      }
      if (!job.dz.data) continue;
      for (int64_t j = 0; j < p;) {
        const int64_t width = cut.width(j);
        panel_product<T>(here, job.back_panels + j * K, width, K, dz + j * R, false);
        j += width;
      }
      const T* z = block.strip(s);
      for (int64_t j = 0; j < p; ++j)
        for (int r = 0; r < R; ++r) dz[j * R + r] = 2 * (row_sum[r] * z[j * R + r] - dz[j * R + r]);
      block.store_strip(dz, s, scratch, job.dz);
    }
    if (centroid_sum)
      outer_product<T>(h, K * R, K, block.rows, job.stride, block.strips, centroid_sum,
                       [](int64_t) { return int64_t(0); });
  }
}

}  // namespace desc_ext::cpu::DESC_EXT_ISA
