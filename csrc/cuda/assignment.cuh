// Assignment family: what turns energies [n, K] or squared distances [n, K] of the product engine into soft
// assignments, their gradients, and the sharpened target. One warp a row; bytes: each n×K array once or twice (rows of
// up to some thousand clusters stay in L1 between the passes), some operations an element: bound by memory.
//
// Registers and shared memory are small: the occupancy is full.
// budget: (normalise|student|target|centroid|column).* registers <= 64, shared <= 2048, dynamic <= 0
#pragma once

#include "bases.cuh"
#include "moments.cuh"

namespace desc_ext::cuda {

inline constexpr int kRowWarps = 8;  // of a block, a row each

__device__ __forceinline__ int64_t warp_row() { return int64_t(blockIdx.x) * kRowWarps + threadIdx.x / kWarp; }

// w_ik = (H_i e_ik + offset) / Σ_k, in place; the sums to total [n].
template <class T>
__global__ void __launch_bounds__(kRowWarps* kWarp)
    normalise_energies(T* values, const T* sample_weight, T offset, int64_t n, int64_t K, T* total) {
  const int lane = int(threadIdx.x) % kWarp;
  const int64_t row = warp_row();
  if (row >= n) return;
  T* values_of_row = values + row * K;
  const T weight = sample_weight ? read(sample_weight + row) : T(1);
  T sum = 0;
  for (int64_t k = lane; k < K; k += kWarp) sum += read(values_of_row + k) * weight + offset;
  sum = warp_sum(sum);
  for (int64_t k = lane; k < K; k += kWarp) write(values_of_row + k, (read(values_of_row + k) * weight + offset) / sum);
  if (lane == 0) write(total + row, sum);
}

// Divides H_i by total_i: the factor of the upstream gradient of energies.
template <class T>
__global__ void __launch_bounds__(256) normalise_factor(const T* sample_weight, const T* total, int64_t n, T* factor) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) write(factor + i, (sample_weight ? read(sample_weight + i) : T(1)) / read(total + i));
}

// From ‖z_i − μ_k‖² to q, in place; each kernel value is divided by the row's largest, so none underflows alone.
template <class T>
__global__ void __launch_bounds__(kRowWarps* kWarp) student_rows(T* values, T dof, int64_t n, int64_t K) {
  const int lane = int(threadIdx.x) % kWarp;
  const int64_t row = warp_row();
  if (row >= n) return;
  T* values_of_row = values + row * K;
  T nearest = read(values_of_row);
  for (int64_t k = lane; k < K; k += kWarp) {
    const T value = read(values_of_row + k);
    nearest = value < nearest ? value : nearest;
  }
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, nearest, step);
    nearest = other < nearest ? other : nearest;
  }
  __syncwarp();  // every lane has read the first value before it is overwritten
  const T power = (dof + 1) / 2;
  T total = 0;
  for (int64_t k = lane; k < K; k += kWarp) {
    T value = (dof + nearest) / (dof + read(values_of_row + k));
    if (dof != T(1)) value = pow(value, power);
    write(values_of_row + k, value);
    total += value;
  }
  total = warp_sum(total);
  for (int64_t k = lane; k < K; k += kWarp) write(values_of_row + k, read(values_of_row + k) / total);
}

// From ‖z_i − μ_k‖² to h_ik = −(ν+1)/2 · q (g − Σ_k g q) / (ν + ‖z − μ‖²), in place, and Σ_k h_ik to row_sum.
template <class T>
__global__ void __launch_bounds__(kRowWarps* kWarp)
    student_gradient(T* values, const T* q, const T* grad, T dof, int64_t n, int64_t K, T* row_sum) {
  const int lane = int(threadIdx.x) % kWarp;
  const int64_t row = warp_row();
  if (row >= n) return;
  const int64_t first = row * K;
  T mean = 0, sum = 0;
  for (int64_t k = lane; k < K; k += kWarp) mean += read(grad + first + k) * read(q + first + k);
  mean = warp_sum(mean);
  for (int64_t k = lane; k < K; k += kWarp) {
    const T h =
        -(dof + 1) / 2 * read(q + first + k) * (read(grad + first + k) - mean) / (dof + read(values + first + k));
    write(values + first + k, h);
    sum += h;
  }
  sum = warp_sum(sum);
  if (lane == 0) write(row_sum + row, sum);
}

// Column sums in float64, in two stages: 32 columns and a chunk of rows for each block, then the chunks in order.
template <class T>
__global__ void __launch_bounds__(256)
    column_partials(const T* values, int64_t n, int64_t K, int chunks, double* partial) {
  __shared__ double shared[8][kWarp];
  const int lane = int(threadIdx.x) % kWarp, line = int(threadIdx.x) / kWarp;
  const int64_t k = int64_t(blockIdx.x) * kWarp + lane, chunk = blockIdx.y;
  const int64_t end = n * (chunk + 1) / chunks;
  double sum = 0;
  if (k < K)
    for (int64_t row = n * chunk / chunks + line; row < end; row += 8) sum += double(read(values + row * K + k));
  shared[line][lane] = sum;
  __syncthreads();
  if (line != 0 || k >= K) return;
  for (int other = 1; other < 8; ++other) sum += shared[other][lane];
  write(partial + chunk * K + k, sum);
}

__device__ __forceinline__ double column_sum(const double* partial, int chunks, int64_t K, int64_t k) {
  double sum = 0;
  for (int chunk = 0; chunk < chunks; ++chunk) sum += read(partial + chunk * K + k);
  return sum;
}

// totals_k (+)= Σ over the chunks.
template <int Unused = 0>
__global__ void __launch_bounds__(256)
    column_totals(const double* partial, int chunks, int64_t K, bool accumulate, double* totals) {
  const int64_t k = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (k >= K) return;
  const double sum = column_sum(partial, chunks, K, k);
  write(totals + k, accumulate ? read(totals + k) + sum : sum);
}

// 1 / f_k; a cluster nobody is in has q = 0 in its column, and its share of the target is 0, not 0/0.
template <class T>
__global__ void __launch_bounds__(256) target_inverse(const double* totals, const T* given, int64_t K, T* inverse) {
  const int64_t k = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (k >= K) return;
  const double frequency = given ? double(read(given + k)) : read(totals + k);
  write(inverse + k, frequency != 0 ? T(1 / frequency) : T(0));
}

template <class T>
__global__ void __launch_bounds__(kRowWarps* kWarp)
    target_rows(const T* q, const T* inverse, int64_t n, int64_t K, T* out) {
  const int lane = int(threadIdx.x) % kWarp;
  const int64_t row = warp_row();
  if (row >= n) return;
  T total = 0;
  for (int64_t k = lane; k < K; k += kWarp) {
    const T value = read(q + row * K + k);
    total += value * value * read(inverse + k);
  }
  total = warp_sum(total);
  for (int64_t k = lane; k < K; k += kWarp) {
    const T value = read(q + row * K + k);
    write(out + row * K + k, value * value * read(inverse + k) / total);
  }
}

// dμ_k = 2 (Σ_i h_ik μ_k − Σ_i h_ik z_i).
template <class T>
__global__ void __launch_bounds__(256) centroid_gradient(const T* moments, const double* totals, const void* centroids,
                                                         int64_t K, int64_t p, void* out, Storage storage) {
  const int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= K * p) return;
  const double mu = double(load_element<T>(centroids, storage, at));
  store_element<T>(out, storage, at, T(2 * (read(totals + at / p) * mu - double(read(moments + at)))));
}

inline dim3 row_grid(int64_t n) { return dim3(unsigned(ceil_div<int64_t>(n, kRowWarps))); }

template <class T>
cudaError_t run_normalise_energies(T* values, const T* sample_weight, T offset, int64_t n, int64_t K, T* total,
                                   cudaStream_t stream) {
  return launch(normalise_energies<T>, row_grid(n), kRowWarps * kWarp, 0, stream, values, sample_weight, offset, n, K,
                total);
}

template <class T>
cudaError_t run_normalise_factor(const T* sample_weight, const T* total, int64_t n, T* factor, cudaStream_t stream) {
  return launch(normalise_factor<T>, grid_of(n), 256, 0, stream, sample_weight, total, n, factor);
}

template <class T>
cudaError_t run_student_rows(T* values, T dof, int64_t n, int64_t K, cudaStream_t stream) {
  return launch(student_rows<T>, row_grid(n), kRowWarps * kWarp, 0, stream, values, dof, n, K);
}

template <class T>
cudaError_t run_student_gradient(T* values, const T* q, const T* grad, T dof, int64_t n, int64_t K, T* row_sum,
                                 cudaStream_t stream) {
  return launch(student_gradient<T>, row_grid(n), kRowWarps * kWarp, 0, stream, values, q, grad, dof, n, K, row_sum);
}

// Partial sums of a column: enough chunks to fill the device.
inline int column_chunks(int64_t n, int64_t K) {
  const int64_t wanted = ceil_div<int64_t>(8 * multiprocessors(), ceil_div<int64_t>(K, kWarp));
  const int64_t by_rows = ceil_div<int64_t>(n, 64);
  return int(wanted < by_rows ? wanted : by_rows);
}

// `partial` holds column_chunks(n, K) · K elements.
template <class T>
cudaError_t run_column_sums(const T* values, int64_t n, int64_t K, double* partial, bool accumulate, double* totals,
                            cudaStream_t stream) {
  const int chunks = column_chunks(n, K);
  DESC_EXT_TRY(launch(column_partials<T>, dim3(unsigned(ceil_div<int64_t>(K, kWarp)), unsigned(chunks)), 256, 0, stream,
                      values, n, K, chunks, partial));
  return launch(column_totals<>, grid_of(K), 256, 0, stream, partial, chunks, K, accumulate, totals);
}

template <class T>
cudaError_t run_target(const T* q, const double* totals, const T* given, int64_t n, int64_t K, T* inverse, T* out,
                       cudaStream_t stream) {
  DESC_EXT_TRY(launch(target_inverse<T>, grid_of(K), 256, 0, stream, totals, given, K, inverse));
  return launch(target_rows<T>, row_grid(n), kRowWarps * kWarp, 0, stream, q, inverse, n, K, out);
}

template <class T>
cudaError_t run_centroid_gradient(const T* moments, const double* totals, const void* centroids, int64_t K, int64_t p,
                                  void* out, Storage storage, cudaStream_t stream) {
  return launch(centroid_gradient<T>, grid_of(K * p), 256, 0, stream, moments, totals, centroids, K, p, out, storage);
}

}  // namespace desc_ext::cuda
