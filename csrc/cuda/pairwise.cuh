// Pairwise family: sums over all pairs of rows of functions of their products or distances, and their gradients.
//
// Every ordered pair is visited from its own row. Blocks of pairs (pair_blocks.h) are made by the product engine, stand
// in L2, and are reduced there by one warp a row; a backward turns them into weights in place, which the engine
// multiplies by the rows of the other side. No sum ever crosses rows: no atomics, and one order. Symmetry is not used,
// so where a pair is the same in both orders its values are computed twice.
//
// Operations: 2·n²·(p + K) forward and 4·n²·(p + K) backward for the collaborative loss, 3·n²·(p + q) and 5·n²·(p + q)
// for the Laplacian energy, 2·n²·p and 8·n²·p for InfoNCE; beside those one exponential or up to three logarithms a
// pair. Bytes through L2: 8 for each value forward, 16 backward; from memory the rows, once for each of n/8192 blocks.
//
// Registers: up to 64, which leave four blocks of 256 threads on a multiprocessor; no shared memory.
// budget: (collaborate|laplacian|info_nce|signs)_.* registers <= 64, shared <= 0, dynamic <= 0
#pragma once

#include <cmath>

#include "pair_rows.cuh"

namespace desc_ext::cuda {

// ---------------------------------------------------------------- collaborative loss
template <class T>
struct Collaboration {
  PairBlock block;
  T* products;                   // y_i·y_j
  T* common;                     // A_c = ν_i·ν_j
  const T *scale, *inverse_max;  // [n] 1/(1 − ‖y_i‖²) and 1/row_max
  T upper, lower, apart;
  double* sums = nullptr;     // [n, 3] of the three terms
  int64_t* counts = nullptr;  // [n, 3]
  // backward
  const T* grad = nullptr;               // [3]
  const int64_t* grad_counts = nullptr;  // [3] what the sums were divided by
  const T* slope = nullptr;              // [n] the derivative of scale
  bool soft = false;
  T *grad_norm = nullptr,
    *grad_max = nullptr;  // [n] together or not: the factor of y_i in dy_i, and the gradient of row_max
};

template <class T>
struct CollaborationPair {
  static constexpr T least = T(1e-6);

  T affinity, common;  // A_s and A_c
  bool positive, negative, apart;

  __device__ __forceinline__ CollaborationPair(const Collaboration<T>& job, T affinity, T common)
      : affinity(affinity), common(common), positive(affinity > job.upper), negative(common < job.lower),
        apart(affinity < job.apart) {}

  static __device__ __forceinline__ T clamped(T x) { return x < least ? least : x > 1 ? T(1) : x; }
  static __device__ __forceinline__ T clamped_log(T x) { return logarithm(clamped(x)); }
  // The derivative of clamped_log.
  static __device__ __forceinline__ T log_slope(T x) { return x >= least && x <= 1 ? 1 / x : x == x ? T(0) : x; }
};

template <class T>
__global__ void __launch_bounds__(kPairThreads, 4) collaborate_sums(Collaboration<T> job) {
  using Pair = CollaborationPair<T>;
  const int64_t local = warp_row(), row = job.block.row + local;
  if (local >= job.block.rows) return;
  const T scale = read(job.scale + row), inverse = read(job.inverse_max + row);
  T sums[3] = {};
  int counts[3] = {};
  for (int64_t c = lane_index(); c < job.block.columns; c += kWarp) {
    const int64_t j = job.block.column + c, at = local * job.block.pitch + c;
    if (j == row) continue;
    const T size = magnitude(read(job.products + at)) * ((scale + read(job.scale + j)) * T(0.5));
    const Pair pair(job, size * inverse, read(job.common + at));
    if (pair.positive) sums[0] -= pair.affinity * Pair::clamped_log(pair.common), ++counts[0];
    if (pair.negative) sums[1] -= (1 - pair.common) * Pair::clamped_log(1 - pair.affinity), ++counts[1];
    if (pair.apart) sums[2] -= Pair::clamped_log(1 - pair.common), ++counts[2];
  }
#pragma unroll
  for (int term = 0; term < 3; ++term) {
    const double sum = warp_sum(double(sums[term]));
    const int count = warp_sum(counts[term]);
    if (lane_index() != 0) continue;
    add_to_row(job.block, job.sums + row * 3 + term, sum);
    add_to_row(job.block, job.counts + row * 3 + term, int64_t(count));
  }
}

// The derivatives of both orders of a pair, from either's visit: weights of y_j in dy_i take the place of the products,
// those of ν_j in dν_i that of A_c.
template <class T>
__global__ void __launch_bounds__(kPairThreads, 4) collaborate_weights(Collaboration<T> job) {
  using Pair = CollaborationPair<T>;
  const int64_t local = warp_row(), row = job.block.row + local;
  if (local >= job.block.rows) return;
  T grad[3];
#pragma unroll
  for (int term = 0; term < 3; ++term) {
    const int64_t count = read(job.grad_counts + term);
    grad[term] = read(job.grad + term) / T(count > 1 ? count : 1);
  }
  const T scale = read(job.scale + row), inverse = read(job.inverse_max + row);
  T scale_sum = 0, max_sum = 0;
  end_row(job.block, local, job.common);
  if (job.grad_norm) end_row(job.block, local, job.products);
  for (int64_t c = lane_index(); c < job.block.columns; c += kWarp) {
    const int64_t j = job.block.column + c, at = local * job.block.pitch + c;
    const T product = read(job.products + at), mean = (scale + read(job.scale + j)) * T(0.5);
    const T size = magnitude(product), common = read(job.common + at), other_inverse = read(job.inverse_max + j);
    const Pair pairs[2] = {{job, size * mean * inverse, common}, {job, size * mean * other_inverse, common}};
    T common_slope = 0, slope[2] = {};  // derivatives by A_c, and by A_s in either order
#pragma unroll
    for (int order = 0; order < 2; ++order) {
      const Pair& pair = pairs[order];
      if (pair.positive) common_slope -= grad[0] * pair.affinity * Pair::log_slope(pair.common);
      if (pair.apart) common_slope += grad[2] * Pair::log_slope(1 - pair.common);
      if (pair.negative && job.grad_norm)
        slope[order] += grad[1] * (1 - pair.common) * Pair::log_slope(1 - pair.affinity);
      if (job.soft && pair.positive) slope[order] -= grad[0] * Pair::clamped_log(pair.common);
      if (job.soft && pair.negative) common_slope += grad[1] * Pair::clamped_log(1 - pair.affinity);
    }
    const bool self = j == row;
    write(job.common + at, self ? T(0) : common_slope);
    if (!job.grad_norm) continue;
    const T by_affinity = self ? T(0) : slope[0] * inverse + slope[1] * other_inverse;
    write(job.products + at, product == 0 ? T(0) : (product < 0 ? -by_affinity : by_affinity) * mean);
    scale_sum += by_affinity * size;
    if (!self) max_sum -= slope[0] * pairs[0].affinity * inverse;
  }
  if (!job.grad_norm) return;
  scale_sum = warp_sum(scale_sum), max_sum = warp_sum(max_sum);
  if (lane_index() != 0) return;
  add_to_row(job.block, job.grad_norm + row, scale_sum * read(job.slope + row));
  add_to_row(job.block, job.grad_max + row, max_sum);
}

// 1/row_max, which is kept at least the smallest normal number.
template <class T>
__global__ void __launch_bounds__(256) collaborate_maxima(const T* row_max, int64_t count, T* inverse) {
  constexpr T least = sizeof(T) == 8 ? T(0x1p-1022) : T(0x1p-126);
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const T value = read(row_max + i);
  write(inverse + i, 1 / (value < least ? least : value));
}

template <class T>
cudaError_t run_collaborate(const Collaboration<T>& job, cudaStream_t stream) {
  return launch_rows(collaborate_sums<T>, job.block.rows, stream, job);
}

template <class T>
cudaError_t run_collaborate_weights(const Collaboration<T>& job, cudaStream_t stream) {
  return launch_rows(collaborate_weights<T>, job.block.rows, stream, job);
}

template <class T>
cudaError_t run_collaborate_maxima(const T* row_max, int64_t count, T* inverse, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  return launch(collaborate_maxima<T>, grid_of(count), 256, 0, stream, row_max, count, inverse);
}

// ---------------------------------------------------------------- Laplacian energy
template <class T>
struct LaplacianEnergy {
  PairBlock block;
  T* distances;            // ‖z_i − z_j‖²; null in a backward for z alone
  T* far;                  // ‖t_i − t_j‖²
  T rate;                  // 1/bandwidth
  double* sums = nullptr;  // [n]
  // backward: weights of z_j in dz_i take the place of far, those of t_j in dt_i that of the distances
  const T* grad = nullptr;                            // an element
  T *weight_z = nullptr, *weight_features = nullptr;  // [n] their sums
};

template <class T>
__global__ void __launch_bounds__(kPairThreads, 4) laplacian_sums(LaplacianEnergy<T> job) {
  const int64_t local = warp_row(), row = job.block.row + local;
  if (local >= job.block.rows) return;
  T sum = 0;
  for (int64_t c = lane_index(); c < job.block.columns; c += kWarp) {
    const int64_t at = local * job.block.pitch + c;
    if (job.block.column + c != row) sum += exponential(read(job.far + at) * -job.rate) * read(job.distances + at);
  }
  const double total = warp_sum(double(sum));
  if (lane_index() == 0) add_to_row(job.block, job.sums + row, total);
}

template <class T>
__global__ void __launch_bounds__(kPairThreads, 4) laplacian_weights(LaplacianEnergy<T> job) {
  const int64_t local = warp_row(), row = job.block.row + local;
  if (local >= job.block.rows) return;
  const T grad = 2 * read(job.grad);
  T sum = 0, feature_sum = 0;
  end_row(job.block, local, job.far);
  if (job.distances) end_row(job.block, local, job.distances);
  for (int64_t c = lane_index(); c < job.block.columns; c += kWarp) {
    const int64_t at = local * job.block.pitch + c;
    const T weight = job.block.column + c == row ? T(0) : grad * exponential(read(job.far + at) * -job.rate);
    write(job.far + at, weight);
    sum += weight;
    if (!job.distances) continue;
    const T feature_weight = weight * -job.rate * read(job.distances + at);
    write(job.distances + at, feature_weight);
    feature_sum += feature_weight;
  }
  sum = warp_sum(sum), feature_sum = warp_sum(feature_sum);
  if (lane_index() != 0) return;
  add_to_row(job.block, job.weight_z + row, sum);
  if (job.distances) add_to_row(job.block, job.weight_features + row, feature_sum);
}

template <class T>
cudaError_t run_laplacian(const LaplacianEnergy<T>& job, cudaStream_t stream) {
  return launch_rows(laplacian_sums<T>, job.block.rows, stream, job);
}

template <class T>
cudaError_t run_laplacian_weights(const LaplacianEnergy<T>& job, cudaStream_t stream) {
  return launch_rows(laplacian_weights<T>, job.block.rows, stream, job);
}

// ---------------------------------------------------------------- InfoNCE
// The log-sum-exp of a row is kept as its largest cosine and the sum over that.
template <class T>
struct InfoNce {
  PairBlock block;
  T* values;  // cosines of z_i and g_j; where `by_column`, of g_i and z_j
  T inverse_temperature;
  T *largest = nullptr, *sum = nullptr, *matched = nullptr;  // [n]
  // backward
  const T* log_sum = nullptr;  // [n] of the rows of z
  const T* grad = nullptr;     // an element
  T factor = 0;                // 1/(n · temperature)
  bool by_column = false;
};

template <class T>
__global__ void __launch_bounds__(kPairThreads, 4) info_nce_sums(InfoNce<T> job) {
  const int64_t local = warp_row(), row = job.block.row + local;
  if (local >= job.block.rows) return;
  const T* values = job.values + local * job.block.pitch;
  const T before = job.block.column == 0 ? T(-INFINITY) : read(job.largest + row);
  T now = before;
  for (int64_t c = lane_index(); c < job.block.columns; c += kWarp) {
    const T value = read(values + c);
    now = value > now ? value : now;
    if (job.block.column + c == row) write(job.matched + row, value);
  }
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, now, step);
    now = other > now ? other : now;
  }
  T total = 0;
#pragma unroll 2
  for (int64_t c = lane_index(); c < job.block.columns; c += kWarp)
    total += exponential((read(values + c) - now) * job.inverse_temperature);
  total = warp_sum(total);
  __syncwarp();  // all have read what was largest before
  if (lane_index() != 0) return;
  if (job.block.column != 0) total += read(job.sum + row) * exponential((before - now) * job.inverse_temperature);
  write(job.largest + row, now);
  write(job.sum + row, total);
}

// The log-sum of every row, and its loss.
template <class T>
__global__ void __launch_bounds__(256) info_nce_finish(const T* largest, const T* sum, const T* matched, int64_t count,
                                                       double temperature, T* log_sum, double* loss) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const double most = double(read(largest + i)), log_of_sum = log(double(read(sum + i)));
  write(log_sum + i, T(log_of_sum + most / temperature));
  write(loss + i, log_of_sum + (most - double(read(matched + i))) / temperature);
}

// g/(nσ) (softmax − δ_ij) in place of the cosines.
template <class T>
__global__ void __launch_bounds__(kPairThreads, 4) info_nce_weights(InfoNce<T> job) {
  const int64_t local = warp_row(), row = job.block.row + local;
  if (local >= job.block.rows) return;
  const T factor = read(job.grad) * job.factor, own = read(job.log_sum + row);
  end_row(job.block, local, job.values);
  for (int64_t c = lane_index(); c < job.block.columns; c += kWarp) {
    const int64_t j = job.block.column + c, at = local * job.block.pitch + c;
    const T log_sum = job.by_column ? read(job.log_sum + j) : own;
    const T weight = factor * exponential(read(job.values + at) * job.inverse_temperature - log_sum);
    write(job.values + at, j == row ? weight - factor : weight);
  }
}

// From the gradients of unit rows to those of the rows.
template <class T>
struct ThroughNorm {
  const T *sums, *unit;   // [count, p]
  const T* inverse_norm;  // [count]
  int64_t count;
  MutableRows out;
};

template <class T>
__global__ void __launch_bounds__(kPairThreads, 4) info_nce_rows(ThroughNorm<T> job) {
  const int64_t row = warp_row(), p = job.out.width;
  if (row >= job.count) return;
  const T inverse = read(job.inverse_norm + row);
  const T along = T(warp_dot(job.sums + row * p, job.unit + row * p, p));
  for (int64_t at = row * p + lane_index(); at < (row + 1) * p; at += kWarp)
    store_element<T>(job.out.data, job.out.storage, at, inverse * (read(job.sums + at) - along * read(job.unit + at)));
}

template <class T>
cudaError_t run_info_nce(const InfoNce<T>& job, cudaStream_t stream) {
  return launch_rows(info_nce_sums<T>, job.block.rows, stream, job);
}

template <class T>
cudaError_t run_info_nce_finish(const T* largest, const T* sum, const T* matched, int64_t count, double temperature,
                                T* log_sum, double* loss, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  return launch(info_nce_finish<T>, grid_of(count), 256, 0, stream, largest, sum, matched, count, temperature, log_sum,
                loss);
}

template <class T>
cudaError_t run_info_nce_weights(const InfoNce<T>& job, cudaStream_t stream) {
  return launch_rows(info_nce_weights<T>, job.block.rows, stream, job);
}

template <class T>
cudaError_t run_info_nce_rows(const ThroughNorm<T>& job, cudaStream_t stream) {
  return launch_rows(info_nce_rows<T>, job.count, stream, job);
}

// ---------------------------------------------------------------- ℓ1,2
// 2 g Σ_j |z_ij| · sign(z_ij) of `count` rows, n of each batch element.
template <class T>
__global__ void __launch_bounds__(kPairThreads, 4)
    signs_rows(Rows z, const T* grad, int64_t count, int64_t n, MutableRows out) {
  const int64_t row = warp_row(), p = z.width;
  if (row >= count) return;
  T sum = 0;
  for (int64_t at = row * p + lane_index(); at < (row + 1) * p; at += kWarp)
    sum += magnitude(load_element<T>(z.data, z.storage, at));
  const T factor = 2 * read(grad + row / n) * warp_sum(sum);
  for (int64_t at = row * p + lane_index(); at < (row + 1) * p; at += kWarp) {
    const T x = load_element<T>(z.data, z.storage, at);
    store_element<T>(out.data, out.storage, at, x == 0 ? T(0) : x < 0 ? -factor : factor);
  }
}

template <class T>
cudaError_t run_signs(const Rows& z, const T* grad, int64_t count, int64_t n, const MutableRows& out,
                      cudaStream_t stream) {
  return launch_rows(signs_rows<T>, count, stream, z, grad, count, n, out);
}

}  // namespace desc_ext::cuda
