// Projection family on the product engine (product.cuh has the tiling and its numbers): energies Σ_c a_c², residuals
// ‖z‖² − Σ_c scale_c a_c² with a = S̃ᵀz in the rotated basis (bases.cuh), and what is made of them in the same pass: the
// nearest subspace, the weighted loss.
//
// Operations 2·n·p·K·d forward, 6·n·p·K·d backward (coefficients again, dz, bases). Bytes: z once, output once; backward
// also 12 bytes a coefficient through L2, in pieces of rows whose coefficients fit there.
//
// A residual below a quarter of ‖z‖² is computed as ‖z − S a‖², because the difference cancels: the warp that owns the
// pair does it together, lanes over p, 4·p·d operations at about a quarter of the tile's speed. Where every row lies in
// one of K subspaces that adds 1/K of the pairs.
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
// budget: (nearest_of_shares|sum_partials|upstream_rows).* registers <= 48, shared <= 64, dynamic <= 0
#pragma once

#include "product.cuh"

namespace desc_ext::cuda {

enum class Metric : int32_t { energy, residual };

template <class T>
struct Projection {
  Product<T> product;
  Metric metric;
  const T* scale;    // as the panels without depth: [tiles][chunks][slots][8]; null for energies
  const T* columns;  // original bases [K, d, p], for direct residuals
  T* scratch;        // d coefficients for each warp of the grid, where they are too many for shared memory; else null
};

// Below this share of ‖z‖² a residual is computed directly.
template <class T>
__device__ constexpr T direct_share() {
  return T(0.25);
}

template <class T>
__device__ __forceinline__ T direct_residual(const Projection<T>& job, int64_t row, int64_t k, T* coefficient) {
  const Plan& plan = job.product.plan;
  const Rows& z = job.product.z;
  const int lane = int(threadIdx.x) % kWarp;
  const T* basis = job.columns + k * plan.dim * plan.p;
  const int64_t start = row * plan.p;
  constexpr int together = 4;
  for (int64_t c = 0; c < plan.dim; c += together) {
    T sum[together] = {};
#pragma unroll 1
    for (int64_t j = lane; j < plan.p; j += kWarp) {
      const T value = load_element<T>(z.data, z.storage, start + j);
#pragma unroll
      for (int u = 0; u < together; ++u)
        if (c + u < plan.dim) sum[u] += value * read(basis + (c + u) * plan.p + j);
    }
#pragma unroll
    for (int u = 0; u < together; ++u) {
      sum[u] = warp_sum(sum[u]);
      if (lane == 0 && c + u < plan.dim) coefficient[c + u] = sum[u];
    }
  }
  __syncwarp();
  T total = 0;
#pragma unroll 1
  for (int64_t j = lane; j < plan.p; j += kWarp) {
    T rest = load_element<T>(z.data, z.storage, start + j);
#pragma unroll 4
    for (int64_t c = 0; c < plan.dim; ++c) rest -= read(basis + c * plan.p + j) * coefficient[c];
    total += rest * rest;
  }
  __syncwarp();  // before the next pair overwrites the coefficients
  return warp_sum(total);
}

inline constexpr int64_t kSharedCoefficients = 1024;  // elements, of a block

// Shared memory behind the norms: coefficients of direct residuals, where they fit, then values of unfinished chunks.
__host__ __device__ inline int64_t coefficient_elements(const Plan& plan) {
  const int64_t all = plan.dim * ((plan.slots * kRowThreads + kWarp - 1) / kWarp);
  return all <= kSharedCoefficients ? all : 0;
}

// Sums squares over the chunks of a tile, makes residuals of them and hands them to the consumer, with the pair's place in [slots][rows]. Sums of chunks that
// are not the last wait in shared memory: registers that live through the walk would be missing there.
template <class T, int Width, int Shared, class Consumer>
struct ValuesEpilogue {
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
    T value[R][Shared];
#pragma unroll
    for (int i = 0; i < R; ++i) {
#pragma unroll
      for (int s = 0; s < Shared; ++s) value[i][s] = T(0);
#pragma unroll
      for (int c = 0; c < Width; ++c) value[i][c / (Width / Shared)] += sum[i][c] * sum[i][c] * scale[c];
    }
    if constexpr (Shared == 1) {  // several subspaces share a slot only where one chunk holds them
      T* waiting = view.free + coefficient_elements(plan) + view.thread;
#pragma unroll
      for (int i = 0; i < R; ++i) {
        if (chunk > 0) value[i][0] += waiting[i * kSlots * kRowThreads];
        if (chunk + 1 < plan.chunks) waiting[i * kSlots * kRowThreads] = value[i][0];
      }
    }
    if (chunk + 1 < plan.chunks) return;
    if (job.metric == Metric::residual) to_residuals(view, tile, value);
    if (view.tx >= plan.slots) return;
#pragma unroll
    for (int i = 0; i < R; ++i)
#pragma unroll
      for (int s = 0; s < Shared; ++s) {
        const int64_t k = subspace(tile, view.tx, s);
        if (view.row(i) < view.active_rows && k < plan.count)
          consumer.take(view.tx * TileShape<T>::rows + view.row(i), view.first + view.row(i), k, value[i][s]);
      }
  }

  __device__ __forceinline__ int64_t subspace(int tile, int slot, int s) const {
    return (int64_t(tile) * job.product.plan.slots + slot) * Shared + s;
  }

  __device__ __forceinline__ void to_residuals(const BlockView<T>& view, int tile, T (&value)[R][Shared]) {
    const Plan& plan = job.product.plan;
    static_assert(R * Shared <= 32);
    unsigned small = 0;
#pragma unroll
    for (int i = 0; i < R; ++i) {
      const T norm = view.norms[view.row(i)];
#pragma unroll
      for (int s = 0; s < Shared; ++s) {
        value[i][s] = norm - value[i][s];
        if (value[i][s] < norm * direct_share<T>() && view.row(i) < view.active_rows && view.tx < plan.slots &&
            subspace(tile, view.tx, s) < plan.count)
          small |= 1u << (i * Shared + s);
      }
    }
    const int64_t warps = int64_t(blockDim.x) / kWarp;
    T* coefficient = coefficient_elements(plan) > 0 ? view.free + view.warp * plan.dim
                               : job.scratch + ((int64_t(blockIdx.y) * gridDim.x + blockIdx.x) * warps + view.warp) * plan.dim;
    while (const unsigned waiting = __ballot_sync(kAllLanes, small != 0)) {
      const int owner = __ffs(int(waiting)) - 1;
      const int bit = __shfl_sync(kAllLanes, __ffs(int(small)) - 1, owner);
      const int slot = (view.thread - view.lane + owner) / kRowThreads;
      const int64_t row = view.first + bit / Shared * kRowThreads + owner % kRowThreads;
      const T residual = direct_residual(job, row, subspace(tile, slot, bit % Shared), coefficient);
      if (view.lane != owner) continue;
      small &= small - 1;
#pragma unroll
      for (int i = 0; i < R; ++i)
#pragma unroll
        for (int s = 0; s < Shared; ++s)
          if (bit == i * Shared + s) value[i][s] = residual;
    }
  }
};

template <int Width, int Shared, class T, class Consumer>
__device__ __forceinline__ void walk_values(const Projection<T>& job, Consumer& consumer) {
  ValuesEpilogue<T, Width, Shared, Consumer> epilogue{job, consumer};
  walk<Width>(job.product, epilogue);
}

// ---------------------------------------------------------------- values
template <class T>
struct ValuesConsumer {
  T* out;           // [n, K]
  const T* factor;  // one element or null
  int64_t K;
  __device__ __forceinline__ void take(int, int64_t row, int64_t k, T value) {
    write(out + row * K + k, factor ? value * read(factor) : value);
  }
};

template <class T, int Width, int Shared>
__global__ void __launch_bounds__(256, TileShape<T>::blocks) product_values(Projection<T> job, T* out, const T* factor) {
  ValuesConsumer<T> consumer{out, factor, job.product.plan.count};
  walk_values<Width, Shared>(job, consumer);
}

// ---------------------------------------------------------------- nearest
// Strict comparisons in ascending k keep the lowest index of equal values, and NaN where the first value is NaN. Each
// thread's best values and labels live in shared memory, [slots][rows], where they are touched once a tile.
template <class T>
struct NearestConsumer {
  bool smallest;
  T* best;     // [slots][rows]
  int* label;  // [slots][rows], −1 until a value is taken

  __device__ __forceinline__ bool better(T value, T than) const { return smallest ? value < than : value > than; }
  __device__ __forceinline__ void take(int place, int64_t, int64_t k, T value) {
    T& held = best[place];
    int& held_k = label[place];
    if (held_k < 0 ? k > 0 && value != value : !better(value, held)) return;
    held = value;
    held_k = int(k);
  }
};

// One candidate a row for each share of the tiles: labels [shares, n] and values [shares, n].
template <class T, int Width, int Shared>
__global__ void __launch_bounds__(256, TileShape<T>::blocks) product_nearest(Projection<T> job, int* labels, T* values) {
  constexpr int rows = TileShape<T>::rows;
  const BlockView<T> view = block_view(job.product);
  const Plan& plan = job.product.plan;
  T* best = view.free + coefficient_elements(plan) + (plan.chunks > 1 ? rows * kSlots : 0);
  int* label = reinterpret_cast<int*>(best + rows * kSlots);
  NearestConsumer<T> consumer{job.metric == Metric::residual, best, label};
  for (int at = view.thread; at < plan.slots * rows; at += int(blockDim.x)) label[at] = -1;
  walk_values<Width, Shared>(job, consumer);
  __syncthreads();
  for (int row = view.thread; row < view.active_rows; row += int(blockDim.x)) {
    T value = best[row];
    int k = label[row];
    for (int slot = 1; slot < plan.slots; ++slot) {
      const T other = best[slot * rows + row];
      const int other_k = label[slot * rows + row];
      if (other_k >= 0 && (k < 0 || consumer.better(other, value) || (other == value && other_k < k)))
        value = other, k = other_k;
    }
    const int64_t at = int64_t(blockIdx.y) * job.product.n + view.first + row;
    write(labels + at, k);
    write(values + at, value);
  }
}

// The best of the shares, which stand in ascending order of k.
template <class T>
__global__ void __launch_bounds__(256) nearest_of_shares(const int* labels, const T* values, int shares, int64_t n, bool smallest,
                                  int64_t* label, T* best) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  T value = read(values + i);
  int k = read(labels + i);
  for (int share = 1; share < shares; ++share) {
    const T other = read(values + share * n + i);
    const int other_k = read(labels + share * n + i);
    if (other_k >= 0 && (smallest ? other < value : other > value)) value = other, k = other_k;
  }
  write(label + i, int64_t(k));
  write(best + i, value);
}

// ---------------------------------------------------------------- weighted loss
template <class T>
struct LossConsumer {
  const T* weight;  // [n, K]
  int64_t K;
  double sum;
  __device__ __forceinline__ void take(int, int64_t row, int64_t k, T value) {
    sum += double(read(weight + row * K + k)) * double(value);
  }
};

template <class T, int Width, int Shared>
__global__ void __launch_bounds__(256, TileShape<T>::blocks)
    product_loss(Projection<T> job, const T* weight, double* partial) {
  LossConsumer<T> consumer{weight, job.product.plan.count, 0.0};
  walk_values<Width, Shared>(job, consumer);
  __syncthreads();
  const double sum = block_sum(consumer.sum, static_cast<double*>(dynamic_shared()));
  if (threadIdx.x == 0) write(partial + int64_t(blockIdx.y) * gridDim.x + blockIdx.x, sum);
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
// shift_i = Σ_k grad_ik assignment_ik (where assignment is given) and sum_i = Σ_k of the effective upstream; one warp a row.
template <class T>
__global__ void __launch_bounds__(256) upstream_rows(Upstream<T> upstream, const T* assignment, int64_t n, int64_t K, T* shift, T* sum) {
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
size_t values_shared_bytes(const Plan& plan, int64_t extra = 0) {
  const int64_t waiting = plan.chunks > 1 ? TileShape<T>::rows * kSlots : 0;
  return product_shared_bytes<T>(coefficient_elements(plan) + waiting + extra);
}

// Elements of scratch that a launch with this grid needs.
inline int64_t values_scratch(const Plan& plan, dim3 grid, Metric metric) {
  const int64_t coefficients = plan.dim * (plan.threads() / kWarp);
  return metric == Metric::energy || coefficient_elements(plan) > 0 ? 0 : coefficients * grid.x * grid.y;
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
  const Plan& plan = job.product.plan;
  return with_layout<T>(plan, [&]<int Width, int Shared>() {
    return launch(product_values<T, Width, Shared>, grid, plan.threads(), values_shared_bytes<T>(plan), stream, job, out, factor);
  });
}

// `labels` and `values` hold grid.y × n candidates.
template <class T>
cudaError_t run_nearest(const Projection<T>& job, dim3 grid, int* labels, T* values, int64_t* label, T* best,
                        cudaStream_t stream) {
  const Plan& plan = job.product.plan;
  DESC_EXT_TRY(with_layout<T>(plan, [&]<int Width, int Shared>() {
    const int64_t held = TileShape<T>::rows * kSlots, extra = held + held * int64_t(sizeof(int)) / int64_t(sizeof(T));
    return launch(product_nearest<T, Width, Shared>, grid, plan.threads(), values_shared_bytes<T>(plan, extra), stream, job,
                  labels, values);
  }));
  const int64_t n = job.product.n;
  return launch(nearest_of_shares<T>, dim3(unsigned(ceil_div<int64_t>(n, 256))), 256, 0, stream, labels, values,
                int(grid.y), n, job.metric == Metric::residual, label, best);
}

// `partial` holds grid.x × grid.y sums.
template <class T>
cudaError_t run_loss(const Projection<T>& job, dim3 grid, const T* weight, double* partial, T* out, cudaStream_t stream) {
  const Plan& plan = job.product.plan;
  DESC_EXT_TRY(with_layout<T>(plan, [&]<int Width, int Shared>() {
    return launch(product_loss<T, Width, Shared>, grid, plan.threads(), values_shared_bytes<T>(plan), stream, job, weight, partial);
  }));
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
