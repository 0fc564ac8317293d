// Projection family on the product engine (product.cuh has the tiling and its numbers): energies Σ_c a_c², residuals
// ‖z‖² − Σ_c scale_c a_c² with a = S̃ᵀz in the rotated basis (bases.cuh), and what is made of them in the same pass: the
// nearest subspace, the weighted loss.
//
// Operations 2·n·p·K·d forward, 6·n·p·K·d backward (coefficients again, dz, bases). Bytes: z once, output once;
// backward also 12 bytes a coefficient through L2, in pieces of rows whose coefficients fit there.
//
// Registers: the values replace the accumulators in the epilogue, so 128 suffice as in the engine. Nothing but the
// accumulators lives in registers through the walk: best values, labels and unfinished sums wait in shared memory.
// Shared memory: the engine's 37,376 bytes, 4,096 of coefficients, 8,192 of unfinished sums (d > 8), and 16,384 of best
// values and labels. Columns 5 and 6 of a slot are the beginning of a second pack: less than 128 bits of it are loaded.
// budget: product_(values|loss).*<float.* registers <= 128, shared <= 0, dynamic <= 49664
// budget: product_nearest.*<float.* registers <= 128, shared <= 0, dynamic <= 66048
// budget: product_(values|loss).*<float,.*[56],.* registers <= 128, shared <= 0, dynamic <= 49664, narrow loads
// budget: product_nearest.*<float,.*[56],.* registers <= 128, shared <= 0, dynamic <= 66048, narrow loads
// budget: product_(values|loss).*<double.* registers <= 224, shared <= 0, dynamic <= 53760
// budget: product_nearest.*<double.* registers <= 224, shared <= 0, dynamic <= 66048
// budget: (nearest_of_shares|sum_partials|upstream_rows).* registers <= 48, shared <= 128, dynamic <= 0
#pragma once

#include "columns.cuh"
#include "tensor.cuh"

namespace desc_ext::cuda {

// The pairs (row, subspace) of a thread of the lane engine: value i·Shared + s is row i of the thread and subspace s of
// its slot.
template <class T, int Shared>
struct LanePairs {
  static constexpr int count = TileShape<T>::thread_rows * Shared, shared_slot = Shared;
  static constexpr bool can_fail = false;
  static __device__ __forceinline__ int row(int thread, int v) {
    return v / Shared * kRowThreads + thread % kRowThreads;
  }
  static __device__ __forceinline__ int slot(int thread, int) { return thread / kRowThreads; }
};

template <class T, int Width, int Shared, class Consumer>
struct LaneValuesEpilogue {
  static constexpr int R = TileShape<T>::thread_rows;
  const Projection<T>& job;
  Consumer& consumer;

  __device__ __forceinline__ void chunk(const BlockView<T>& view, int tile, int chunk, const T (&sum)[R][Width]) {
    const Plan& plan = job.product.plan;
    T scale[Width];
#pragma unroll
    for (int c = 0; c < Width; ++c) scale[c] = T(1);
    if (job.scale && view.tx < plan.slots) {
      const T* at = job.scale + ((int64_t(tile) * plan.chunks + chunk) * plan.slots + view.tx) * kSlotColumns;
#pragma unroll
      for (int c = 0; c < Width; ++c) scale[c] = read(at + c);
    }
    T value[R * Shared];
#pragma unroll
    for (int i = 0; i < R; ++i) {
#pragma unroll
      for (int s = 0; s < Shared; ++s) value[i * Shared + s] = T(0);
#pragma unroll
      for (int c = 0; c < Width; ++c) value[i * Shared + c / (Width / Shared)] += sum[i][c] * sum[i][c] * scale[c];
    }
    PairValues<LanePairs<T, Shared>, T, Consumer>{job, consumer}.chunk(view, tile, chunk, value);
  }
};

template <int Width, int Shared>
struct LaneWalk {
  template <class T, class Consumer>
  static __device__ __forceinline__ void run(const Projection<T>& job, Consumer& consumer) {
    LaneValuesEpilogue<T, Width, Shared, Consumer> epilogue{job, consumer};
    walk<LaneEngine<T, Width, false>>(job.product, epilogue);
  }
};

template <class T, int Width, int Shared>
__global__ void __launch_bounds__(256, TileShape<T>::blocks)
    product_values(Projection<T> job, T* out, const T* factor) {
  values_block<LaneWalk<Width, Shared>>(job, out, factor);
}

template <class T, int Width, int Shared>
__global__ void __launch_bounds__(256, TileShape<T>::blocks)
    product_nearest(Projection<T> job, int* labels, T* values) {
  nearest_block<LaneWalk<Width, Shared>>(job, labels, values);
}

template <class T, int Width, int Shared>
__global__ void __launch_bounds__(256, TileShape<T>::blocks)
    product_loss(Projection<T> job, const T* weight, double* partial) {
  loss_block<LaneWalk<Width, Shared>>(job, weight, partial);
}

// The best of the shares, which stand in ascending order of k.
template <class T>
__global__ void __launch_bounds__(256) nearest_of_shares(const int* labels, const T* values, int shares, int64_t n,
                                                         bool smallest, int64_t* label, T* best) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  T value = read(values + i);
  int k = read(labels + i);
#pragma unroll 1
  for (int share = 1; share < shares; ++share) {
    const T other = read(values + share * n + i);
    const int other_k = read(labels + share * n + i);
    if (other_k >= 0 && (smallest ? other < value : other > value)) value = other, k = other_k;
  }
  write(label + i, int64_t(k));
  write(best + i, value);
}

// Adds up partial sums in a fixed order; one block of 256 threads.
template <class T>
__global__ void __launch_bounds__(256) sum_partials(const double* partial, int64_t count, T* out) {
  __shared__ double shared[8];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) sum += read(partial + i);
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) write(out, T(sum));
}

// ---------------------------------------------------------------- row sums of the upstream gradient
// shift_i = Σ_k grad_ik assignment_ik (where assignment is given) and sum_i = Σ_k of the effective upstream; one warp a
// row.
template <class T>
__global__ void __launch_bounds__(256)
    upstream_rows(Upstream<T> upstream, const T* assignment, int64_t n, int64_t K, T* shift, T* sum) {
  const int lane = int(threadIdx.x) % kWarp;
  const int64_t row = int64_t(blockIdx.x) * (blockDim.x / kWarp) + threadIdx.x / kWarp;
  if (row >= n) return;
  const T minus = upstream.shift_of(row), factor = upstream.factor_of(row);
  T total = 0;
  for (int64_t k = lane; k < K; k += kWarp) {
    const T grad = read(upstream.grad + row * K + k);
    total += assignment ? grad * read(assignment + row * K + k) : (grad - minus) * factor;
  }
  total = warp_sum(total);
  if (lane == 0) write((assignment ? shift : sum) + row, total);
}

// ---------------------------------------------------------------- launches
template <class T>
size_t values_shared_bytes(const Projection<T>& job, int64_t extra = 0) {
  const Plan& plan = job.product.plan;
  return product_shared_bytes(job.product, coefficient_elements(plan, job.product.threads) +
                                               waiting_elements(plan, TileShape<T>::rows) + extra);
}

// Elements of scratch that a launch with this grid needs.
template <class T>
int64_t values_scratch(const Projection<T>& job, dim3 grid) {
  const Plan& plan = job.product.plan;
  if ((job.metric == Metric::energy && !job.parts) || coefficient_elements(plan, job.product.threads) > 0) return 0;
  return plan.dim * (job.product.threads / kWarp) * grid.x * grid.y;
}

// Calls f.template operator()<Width, Shared>() for the plan's layout.
template <class T, class F>
cudaError_t with_layout(const Plan& plan, const F& f) {
  if constexpr (sizeof(T) == 8) {
    return f.template operator()<8, 1>();
  } else {
    switch (plan.shared_slot * 16 + plan.width) {
      case 2 * 16 + 4: return f.template operator()<4, 2>();
      case 2 * 16 + 6: return f.template operator()<6, 2>();
      case 1 * 16 + 4: return f.template operator()<4, 1>();
      case 1 * 16 + 5: return f.template operator()<5, 1>();
      case 1 * 16 + 6: return f.template operator()<6, 1>();
      case 1 * 16 + 7: return f.template operator()<7, 1>();
      default: return f.template operator()<8, 1>();
    }
  }
}

template <class T>
cudaError_t run_values(const Projection<T>& job, dim3 grid, T* out, const T* factor, cudaStream_t stream) {
  const auto run = [&](auto kernel) {
    return launch(kernel, grid, job.product.threads, values_shared_bytes(job), stream, job, out, factor);
  };
  if constexpr (sizeof(T) == 4)
    if (job.parts) return with_parts(job.parts, [&]<int Parts>() { return run(product_tensor_values<Parts>); });
  return with_layout<T>(job.product.plan,
                        [&]<int Width, int Shared>() { return run(product_values<T, Width, Shared>); });
}

template <class T>
cudaError_t run_candidates(const Projection<T>& job, dim3 grid, int* labels, T* values, cudaStream_t stream) {
  const int64_t held = TileShape<T>::rows * kSlots, extra = held + held * int64_t(sizeof(int)) / int64_t(sizeof(T));
  const auto run = [&](auto kernel) {
    return launch(kernel, grid, job.product.threads, values_shared_bytes(job, extra), stream, job, labels, values);
  };
  if constexpr (sizeof(T) == 4)
    if (job.parts) return with_parts(job.parts, [&]<int Parts>() { return run(product_tensor_nearest<Parts>); });
  return with_layout<T>(job.product.plan,
                        [&]<int Width, int Shared>() { return run(product_nearest<T, Width, Shared>); });
}

// `labels` and `values` hold grid.y × n candidates.
template <class T>
cudaError_t run_nearest(const Projection<T>& job, dim3 grid, int* labels, T* values, int64_t* label, T* best,
                        cudaStream_t stream) {
  DESC_EXT_TRY(run_candidates(job, grid, labels, values, stream));
  const int64_t n = job.product.n;
  return launch(nearest_of_shares<T>, dim3(unsigned(ceil_div<int64_t>(n, 256))), 256, 0, stream, labels, values,
                int(grid.y), n, job.metric == Metric::residual, label, best);
}

template <class T>
cudaError_t run_loss_partials(const Projection<T>& job, dim3 grid, const T* weight, double* partial,
                              cudaStream_t stream) {
  const auto run = [&](auto kernel) {
    return launch(kernel, grid, job.product.threads, values_shared_bytes(job), stream, job, weight, partial);
  };
  if constexpr (sizeof(T) == 4)
    if (job.parts) return with_parts(job.parts, [&]<int Parts>() { return run(product_tensor_loss<Parts>); });
  return with_layout<T>(job.product.plan, [&]<int Width, int Shared>() { return run(product_loss<T, Width, Shared>); });
}

// `partial` holds grid.x × grid.y sums.
template <class T>
cudaError_t run_loss(const Projection<T>& job, dim3 grid, const T* weight, double* partial, T* out,
                     cudaStream_t stream) {
  DESC_EXT_TRY(run_loss_partials(job, grid, weight, partial, stream));
  return launch(sum_partials<T>, dim3(1), 256, 0, stream, partial, int64_t(grid.x) * grid.y, out);
}

template <class T>
cudaError_t run_upstream_rows(const Upstream<T>& upstream, const T* assignment, int64_t n, int64_t K, T* shift, T* sum,
                              cudaStream_t stream) {
  constexpr int warps = 8;
  return launch(upstream_rows<T>, dim3(unsigned(ceil_div<int64_t>(n, warps))), warps * kWarp, 0, stream, upstream,
                assignment, n, K, shift, sum);
}

}  // namespace desc_ext::cuda
