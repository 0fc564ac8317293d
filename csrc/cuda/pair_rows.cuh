// Rows whose pairs are walked over in blocks: prepared (converted, centred, of unit length), their numbers (leverage,
// sizes), totals of what they were given, and rows of gradients. The values of the pairs are those of the product
// engine.
//
// One warp a row, or one block a total; bytes: each array once or twice, 8·n·p operations at most. Float64 only where
// one number stands for a row.
//
// Registers: up to 64, which leave four blocks of 256 threads on a multiprocessor; shared memory only for block sums.
// budget: pair_.* registers <= 64, shared <= 192, dynamic <= 0
#pragma once

#include "assignment.cuh"

namespace desc_ext::cuda {

// Rows [row, row + rows) against columns [column, column + columns); their values stand in [rows, pitch].
struct PairBlock {
  int64_t row, rows, column, columns, pitch;
};

inline constexpr int kPairThreads = kRowWarps * kWarp;

__device__ __forceinline__ int lane_index() { return int(threadIdx.x) % kWarp; }

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float logarithm(float x) { return logf(x); }
__device__ __forceinline__ double logarithm(double x) { return log(x); }
template <class T>
__device__ __forceinline__ T magnitude(T x) {
  return x < 0 ? -x : x;
}

// A row's values end at its pitch; what stands behind the last pair is weighed too, by nothing.
template <class T>
__device__ __forceinline__ void end_row(const PairBlock& block, int64_t local, T* values) {
  for (int64_t c = block.columns + lane_index(); c < block.pitch; c += kWarp)
    write(values + local * block.pitch + c, T(0));
}

// What a row has added up over the blocks before.
template <class S>
__device__ __forceinline__ void add_to_row(const PairBlock& block, S* at, S value) {
  write(at, block.column == 0 ? value : read(at) + value);
}

// (x − mean)/‖x‖ of `count` rows, n of each batch element, to out [count, p].
template <class T>
struct PreparedRows {
  Rows in;
  int64_t count, n;
  const double* totals;  // [batch, p] Σ_i x_i, or null where the mean stays
  T* inverse_norm;       // [count], 1 for a row of zeros, or null where the length stays
  T* out;
};

template <class T>
__global__ void __launch_bounds__(kPairThreads, 4) pair_prepare(PreparedRows<T> job) {
  const int lane = lane_index();
  const int64_t row = warp_row(), p = job.in.width;
  if (row >= job.count) return;
  const double* totals = job.totals ? job.totals + row / job.n * p : nullptr;
  T scale = 1;
  if (job.inverse_norm) {
    double squared = 0;
    for (int64_t c = lane; c < p; c += kWarp) {
      const double x = double(load_element<T>(job.in.data, job.in.storage, row * p + c));
      squared += x * x;
    }
    const double norm = sqrt(warp_sum(squared)), most = sizeof(T) == 4 ? 3.4028234e38 : 1.7976931348623157e308;
    // 1 over a subnormal norm would overflow float
    scale = norm > 0 ? T(1 / norm < most ? 1 / norm : most) : T(1);
    if (lane == 0) write(job.inverse_norm + row, scale);
  }
  for (int64_t c = lane; c < p; c += kWarp) {
    T x = load_element<T>(job.in.data, job.in.storage, row * p + c);
    if (totals) x -= T(read(totals + c) / double(job.n));
    write(job.out + row * p + c, x * scale);
  }
}

// s_i = 1/(1 − ‖y_i‖²), 1 − ‖y_i‖² being at least the rounding unit, and its derivative by ‖y_i‖².
template <class T>
__global__ void __launch_bounds__(kPairThreads, 4)
    pair_leverage(const T* y, int64_t count, int64_t p, T* scale, T* slope) {
  constexpr double least = sizeof(T) == 8 ? 0x1p-52 : 0x1p-23;
  const int64_t row = warp_row();
  if (row >= count) return;
  const double rest = 1 - warp_dot(y + row * p, y + row * p, p);
  if (lane_index() != 0) return;
  const T s = T(1 / (rest < least ? least : rest));
  write(scale + row, s);
  write(slope + row, double(s) * least < 1 ? T(double(s) * double(s)) : T(0));
}

enum class RowSize : int32_t { squares, absolute_squared };

// Σ_j x_ij² or (Σ_j |x_ij|)² of `count` rows.
template <class T>
__global__ void __launch_bounds__(kPairThreads, 4) pair_sizes(Rows rows, int64_t count, RowSize kind, double* sizes) {
  const int64_t row = warp_row();
  if (row >= count) return;
  T sum = 0;
  for (int64_t j = lane_index(); j < rows.width; j += kWarp) {
    const T x = load_element<T>(rows.data, rows.storage, row * rows.width + j);
    sum += kind == RowSize::squares ? x * x : magnitude(x);
  }
  const double total = warp_sum(double(sum));
  if (lane_index() == 0) write(sizes + row, kind == RowSize::absolute_squared ? total * total : total);
}

// factor · Σ_i values_bit in a fixed order to out [batch, terms], over the number of pairs where the rows' numbers are
// given; a block for each.
template <class T>
struct PairTotals {
  const double* values;  // [batch, n, terms]
  int64_t n;
  int terms;
  double factor;
  T* out;
  const int64_t* counts = nullptr;  // [batch, n, terms]
  int64_t* out_counts = nullptr;    // [batch, terms]
};

template <class T>
__global__ void __launch_bounds__(256) pair_totals(PairTotals<T> job) {
  __shared__ double partial[8];
  __shared__ int64_t partial_counts[8];
  const int64_t first = int64_t(blockIdx.x) / job.terms * job.n * job.terms + int(blockIdx.x) % job.terms;
  double sum = 0;
  int64_t count = 0;
  for (int64_t i = threadIdx.x; i < job.n; i += blockDim.x) {
    sum += read(job.values + first + i * job.terms);
    if (job.counts) count += read(job.counts + first + i * job.terms);
  }
  sum = block_sum(sum, partial) * job.factor;
  if (job.counts) count = block_sum(count, partial_counts);
  if (threadIdx.x != 0) return;
  write(job.out + blockIdx.x, T(job.counts && count > 1 ? sum / double(count) : sum));
  if (job.counts) write(job.out_counts + blockIdx.x, count);
}

// out_i = factor_i x_i + sign · sums_i for `count` rows.
template <class T>
struct StoredRows {
  const T *sums, *x, *factor;  // x may be null; factor too, for 1
  T sign;
  int64_t count;
  MutableRows out;
};

template <class T>
__global__ void __launch_bounds__(kPairThreads, 4) pair_store(StoredRows<T> job) {
  const int64_t row = warp_row(), p = job.out.width;
  if (row >= job.count) return;
  const T factor = job.factor ? read(job.factor + row) : T(1);
  for (int64_t at = row * p + lane_index(); at < (row + 1) * p; at += kWarp) {
    T value = job.sign * read(job.sums + at);
    if (job.x) value += factor * read(job.x + at);
    store_element<T>(job.out.data, job.out.storage, at, value);
  }
}

// Launches with a warp for each of `rows` rows; none where there is no row.
template <class... P, class... A>
cudaError_t launch_rows(void (*kernel)(P...), int64_t rows, cudaStream_t stream, A&&... arguments) {
  if (rows == 0) return cudaSuccess;
  return launch(kernel, row_grid(rows), kPairThreads, 0, stream, std::forward<A>(arguments)...);
}

template <class T>
cudaError_t run_pair_prepare(const PreparedRows<T>& job, cudaStream_t stream) {
  return launch_rows(pair_prepare<T>, job.count, stream, job);
}

template <class T>
cudaError_t run_pair_leverage(const T* y, int64_t count, int64_t p, T* scale, T* slope, cudaStream_t stream) {
  return launch_rows(pair_leverage<T>, count, stream, y, count, p, scale, slope);
}

template <class T>
cudaError_t run_pair_sizes(const Rows& rows, int64_t count, RowSize kind, double* sizes, cudaStream_t stream) {
  return launch_rows(pair_sizes<T>, count, stream, rows, count, kind, sizes);
}

template <class T>
cudaError_t run_pair_totals(const PairTotals<T>& job, int64_t batch, cudaStream_t stream) {
  if (batch == 0) return cudaSuccess;
  return launch(pair_totals<T>, dim3(unsigned(batch * job.terms)), 256, 0, stream, job);
}

template <class T>
cudaError_t run_pair_store(const StoredRows<T>& job, cudaStream_t stream) {
  return launch_rows(pair_store<T>, job.count, stream, job);
}

}  // namespace desc_ext::cuda
