// What becomes of a pair (row, subspace) in the projection kernels, whichever engine made its sum of squares:
// residuals, the sums of several chunks, and the consumers: all values, the nearest subspace, the weighted loss.
//
// A residual below a quarter of ‖z‖² is computed as ‖z − S a‖², because the difference cancels: the warp that owns the
// pair does it together, lanes over p, 4·p·d operations at about a quarter of the tile's speed. Where every row lies in
// one of K subspaces that adds 1/K of the pairs. What the tensor cores make of an infinity, a NaN or an overflow is
// computed again in the same way.
#pragma once

#include "product.cuh"

namespace desc_ext::cuda {

enum class Metric : int32_t { energy, residual };

template <class T>
struct Projection {
  Product<T> product;
  Metric metric;
  // As the panels without depth: [tiles][chunks][slots][8], null for energies; the tensor cores' are in tensor.cuh.
  const T* scale;
  const T* columns;  // original bases [K, d, p], for direct residuals
  T* scratch;        // d coefficients for each warp of the grid, where they are too many for shared memory; else null
  int parts = 0;     // products of the tensor cores for one (tensor.cuh), whose panels these are; 0: the lanes' FFMA
};

// Below this share of ‖z‖² a residual is computed directly.
template <class T>
__device__ constexpr T direct_share() {
  return T(0.25);
}

// The energy or residual of one pair, by a warp.
template <class T>
__device__ __forceinline__ T direct_value(const Projection<T>& job, Metric metric, int64_t row, int64_t k,
                                          T* coefficient) {
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
  if (metric == Metric::energy) {
    for (int64_t c = lane; c < plan.dim; c += kWarp) total += coefficient[c] * coefficient[c];
    __syncwarp();
    return warp_sum(total);
  }
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
__host__ __device__ inline int64_t coefficient_elements(const Plan& plan, int threads) {
  const int64_t all = plan.dim * (threads / kWarp);
  return all <= kSharedCoefficients ? all : 0;
}

__host__ __device__ inline int64_t waiting_elements(const Plan& plan, int rows) {
  return plan.chunks > 1 ? int64_t(rows) * kSlots : 0;
}

// From sums of squares of one chunk, in the order of Pairs, to values handed to the consumer, each with its place in
// [slots][rows]. Sums of chunks that are not the last wait in shared memory: registers that live through the walk would
// be missing there.
template <class Pairs, class T, class Consumer>
struct PairValues {
  static constexpr int count = Pairs::count;
  const Projection<T>& job;
  Consumer& consumer;

  __device__ __forceinline__ int64_t subspace(int tile, int thread, int v) const {
    return (int64_t(tile) * job.product.plan.slots + Pairs::slot(thread, v)) * Pairs::shared_slot +
           v % Pairs::shared_slot;
  }

  __device__ __forceinline__ bool exists(const BlockView<T>& view, int tile, int v) const {
    const Plan& plan = job.product.plan;
    return Pairs::row(view.thread, v) < view.active_rows && Pairs::slot(view.thread, v) < plan.slots &&
           subspace(tile, view.thread, v) < plan.count;
  }

  __device__ __forceinline__ void chunk(const BlockView<T>& view, int tile, int chunk, T (&value)[count]) const {
    const Plan& plan = job.product.plan;
    if constexpr (Pairs::shared_slot == 1) {  // several subspaces share a slot only where one chunk holds them
      T* waiting = view.free + coefficient_elements(plan, int(blockDim.x)) + view.thread;
#pragma unroll
      for (int v = 0; v < count; ++v) {
        if (chunk > 0) value[v] += waiting[v * int(blockDim.x)];
        if (chunk + 1 < plan.chunks) waiting[v * int(blockDim.x)] = value[v];
      }
    }
    if (chunk + 1 < plan.chunks) return;
    if (Pairs::can_fail || job.metric == Metric::residual) finish(view, tile, value);
#pragma unroll
    for (int v = 0; v < count; ++v) {
      if (exists(view, tile, v)) {
        const int row = Pairs::row(view.thread, v);
        consumer.take(Pairs::slot(view.thread, v) * TileShape<T>::rows + row, view.first + row,
                      subspace(tile, view.thread, v), value[v]);
      }
      keep_order();
    }
  }

 private:
  // Residuals from sums of squares, and what has to be computed directly.
  __device__ __forceinline__ void finish(const BlockView<T>& view, int tile, T (&value)[count]) const {
    const Plan& plan = job.product.plan;
    const Metric metric = Pairs::can_fail ? job.metric : Metric::residual;
    static_assert(count <= 32);
    unsigned direct = 0;
#pragma unroll
    for (int v = 0; v < count; ++v) {
      bool again = Pairs::can_fail && !(value[v] - value[v] == 0);  // neither infinite nor NaN
      if (metric == Metric::residual) {
        const T norm = view.norms[Pairs::row(view.thread, v)];
        value[v] = norm - value[v];
        again |= value[v] < norm * direct_share<T>();
      }
      if (again && exists(view, tile, v)) direct |= 1u << v;
    }
    const int64_t warps = int64_t(blockDim.x) / kWarp;
    T* coefficient =
        coefficient_elements(plan, int(blockDim.x)) > 0
            ? view.free + view.warp * plan.dim
            : job.scratch + ((int64_t(blockIdx.y) * gridDim.x + blockIdx.x) * warps + view.warp) * plan.dim;
    while (const unsigned waiting = __ballot_sync(kAllLanes, direct != 0)) {
      const int owner = __ffs(int(waiting)) - 1;
      const int which = __shfl_sync(kAllLanes, __ffs(int(direct)) - 1, owner);
      const int thread = view.thread - view.lane + owner;
      const T found =
          direct_value(job, metric, view.first + Pairs::row(thread, which), subspace(tile, thread, which), coefficient);
      if (view.lane != owner) continue;
      direct &= direct - 1;
#pragma unroll
      for (int v = 0; v < count; ++v)
        if (which == v) value[v] = found;
    }
  }
};

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

template <class Walk, class T>
__device__ __forceinline__ void values_block(const Projection<T>& job, T* out, const T* factor) {
  ValuesConsumer<T> consumer{out, factor, job.product.plan.count};
  Walk::run(job, consumer);
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
template <class Walk, class T>
__device__ __forceinline__ void nearest_block(const Projection<T>& job, int* labels, T* values) {
  constexpr int rows = TileShape<T>::rows;
  const BlockView<T> view = block_view(job.product);
  const Plan& plan = job.product.plan;
  T* best = view.free + coefficient_elements(plan, int(blockDim.x)) + waiting_elements(plan, rows);
  int* label = reinterpret_cast<int*>(best + rows * kSlots);
  NearestConsumer<T> consumer{job.metric == Metric::residual, best, label};
  for (int at = view.thread; at < plan.slots * rows; at += int(blockDim.x)) label[at] = -1;
  Walk::run(job, consumer);
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

template <class Walk, class T>
__device__ __forceinline__ void loss_block(const Projection<T>& job, const T* weight, double* partial) {
  LossConsumer<T> consumer{weight, job.product.plan.count, 0.0};
  Walk::run(job, consumer);
  __syncthreads();
  const double sum = block_sum(consumer.sum, static_cast<double*>(dynamic_shared()));
  if (threadIdx.x == 0) write(partial + int64_t(blockIdx.y) * gridDim.x + blockIdx.x, sum);
}

}  // namespace desc_ext::cuda
