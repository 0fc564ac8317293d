// What is done once for each basis S_k: the rotation that makes its residual a sum of squares, and its gradient.
#pragma once

#include <cmath>
#include <limits>

#include "tile.h"

namespace desc_ext::cpu::DESC_EXT_ISA {

template <class T>
static inline double wide_dot(const T* a, const T* b, int64_t stride) {
  double sum[8] = {};
  for (int64_t j = 0; j < stride; j += 2)  // stride is a multiple of the vector length, at least 2
    for (int i = 0; i < 2; ++i) sum[(j + i) % 8] += double(a[j + i]) * double(b[j + i]);
  return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

// Cyclic Jacobi: the symmetric m [d, d] becomes diagonal, rotation [d, d] gets the eigenvectors as columns. Chosen for
// its accuracy, and because the bases are nearly orthonormal: one or two sweeps, d is small.
static inline void jacobi(double* m, double* rotation, int64_t d, double tolerance) {
  double norm = 0;
  for (int64_t i = 0; i < d * d; ++i) norm += m[i] * m[i], rotation[i] = 0;
  for (int64_t i = 0; i < d; ++i) rotation[i * d + i] = 1;
  const double small = tolerance * std::sqrt(norm) / double(d);
  bool done = !(norm < std::numeric_limits<double>::infinity());
  for (int sweep = 0; sweep < 40 && !done; ++sweep) {
    done = true;
    for (int64_t a = 0; a < d; ++a)
      for (int64_t b = a + 1; b < d; ++b) {
        const double off = m[a * d + b];
        if (!(std::fabs(off) > small)) continue;
        done = false;
        const double theta = (m[b * d + b] - m[a * d + a]) / (2 * off);
        const double t = (theta < 0 ? -1 : 1) / (std::fabs(theta) + std::sqrt(theta * theta + 1));
        const double c = 1 / std::sqrt(t * t + 1), s = t * c;
        for (int64_t i = 0; i < d; ++i) {
          const double x = m[i * d + a], y = m[i * d + b];
          m[i * d + a] = c * x - s * y;
          m[i * d + b] = s * x + c * y;
          const double u = rotation[i * d + a], v = rotation[i * d + b];
          rotation[i * d + a] = c * u - s * v;
          rotation[i * d + b] = s * u + c * v;
        }
        for (int64_t i = 0; i < d; ++i) {
          const double x = m[a * d + i], y = m[b * d + i];
          m[a * d + i] = c * x - s * y;
          m[b * d + i] = s * x + c * y;
        }
        m[a * d + b] = m[b * d + a] = 0;
      }
  }
}

template <class T>
static void rotate_basis(const T* original, int64_t, int64_t d, int64_t stride, T* rotated, T* scale,
                         double* rotation) {
  Buffer<double> m(d * d), column(stride);
  for (int64_t a = 0; a < d; ++a)
    for (int64_t b = a; b < d; ++b)
      m[a * d + b] = m[b * d + a] =
          (a == b ? 2.0 : 0.0) - wide_dot(original + a * stride, original + b * stride, stride);
  jacobi(m, rotation, d, double(std::numeric_limits<T>::epsilon()) / 64);
  for (int64_t c = 0; c < d; ++c) {
    scale[c] = T(m[c * d + c]);
    std::fill(column + 0, column + stride, 0.0);
    for (int64_t a = 0; a < d; ++a)
      for (int64_t j = 0; j < stride; ++j) column[j] += double(original[a * stride + j]) * rotation[a * d + c];
    for (int64_t j = 0; j < stride; ++j) rotated[c * stride + j] = T(column[j]);
  }
}

// With M = 2I − SᵀS, B = Σ g z aᵀ: dS = 2B for the energy and −2BM + 2S(SᵀB) for the residual; computed in the rotated
// columns, where M is diagonal, and rotated back.
template <class T>
static void basis_gradient(const Bases<T>& bases, Metric metric, int64_t k, const T* basis_sum, MutableRows out) {
  const int64_t d = bases.d, p = bases.p, stride = bases.stride;
  const T *rotated = bases.rotated + k * d * stride, *scale = bases.scale + k * d;
  const double* rotation = bases.rotation + k * d * d;
  Buffer<double> gradient(d * stride), column(stride);
  for (int64_t c = 0; c < d; ++c) {
    const T* sum = basis_sum + c * stride;
    double* to = gradient + c * stride;
    const double factor = metric == Metric::residual ? -2.0 * double(scale[c]) : 2.0;
    for (int64_t j = 0; j < stride; ++j) to[j] = factor * double(sum[j]);
    if (metric == Metric::energy) continue;
    for (int64_t a = 0; a < d; ++a) {
      const double inner = 2 * wide_dot(rotated + a * stride, sum, stride);
      for (int64_t j = 0; j < stride; ++j) to[j] += inner * double(rotated[a * stride + j]);
    }
  }
  Buffer<T> result(p * d);
  for (int64_t a = 0; a < d; ++a) {
    if (metric == Metric::energy) {
      for (int64_t j = 0; j < p; ++j) result[j * d + a] = T(gradient[a * stride + j]);
      continue;
    }
    std::fill(column + 0, column + stride, 0.0);
    for (int64_t c = 0; c < d; ++c)
      for (int64_t j = 0; j < stride; ++j) column[j] += gradient[c * stride + j] * rotation[a * d + c];
    for (int64_t j = 0; j < p; ++j) result[j * d + a] = T(column[j]);
  }
  for (int64_t j = 0; j < p; ++j) store_row<T>(out, k * p + j, result + j * d);
}

}  // namespace desc_ext::cpu::DESC_EXT_ISA
