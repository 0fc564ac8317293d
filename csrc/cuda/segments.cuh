// Rows by label: a stable counting sort on the device, and the gradient of Gram matrices with respect to rows and
// weights. The Gram matrices themselves are moments (moments.cuh).
//
// The sort reads the labels twice and writes n positions: 24·n bytes. Chunks of rows count their labels (integer
// atomics into counts of their own: the result does not depend on their order), one block turns the counts into first
// positions, and a warp for each chunk places its rows in order, 32 at a time, a row's rank among equal labels being
// the number of lanes before it that hold the same one.
// budget: (count_labels|place_labels|scan_labels|own_subspace).* registers <= 64, shared <= 256, dynamic <= 0
// budget: gram_rows<float.* registers <= 96, shared <= 128, dynamic <= 32768
// budget: gram_rows<double.* registers <= 160, shared <= 128, dynamic <= 32768
#pragma once

#include "bases.cuh"
#include "moments.cuh"

namespace desc_ext::cuda {

// What the sort of `n` labels leaves: order[begin[k] .. begin[k + 1]) are the rows of label k, ascending.
struct LabelSort {
  const int64_t* labels;
  int64_t n, segments;
  int chunks;
  int64_t* begin;   // [segments + 1]
  int64_t* order;   // [n]
  int64_t* counts;  // [chunks, segments], zero at the start

  __host__ __device__ int64_t chunk_begin(int64_t chunk) const { return n * chunk / chunks; }
};

// A chunk of at least 1024 rows, and counts of 4 MiB at most.
inline int label_chunks(int64_t n, int64_t segments) {
  const int64_t by_rows = ceil_div<int64_t>(n, 1024), by_memory = (int64_t(1) << 19) / segments;
  const int64_t chunks = by_rows < by_memory ? by_rows : by_memory;
  return int(chunks < 1 ? 1 : chunks);
}

__device__ __forceinline__ int64_t checked_label(const LabelSort& sort, int64_t row) {
  const int64_t label = read(sort.labels + row);
  DESC_EXT_DEVICE_CHECK(label >= 0 && label < sort.segments, "desc_ext: labels must satisfy 0 <= label < n_segments");
  return label;
}

// Lanes that hold the same label.
__device__ __forceinline__ unsigned same_label(int64_t label) {
  return __match_any_sync(kAllLanes, static_cast<long long>(label));
}

template <int Unused = 0>
__global__ void __launch_bounds__(256) count_labels(LabelSort sort) {
  const int64_t end = sort.chunk_begin(blockIdx.x + 1);
  unsigned long long* counts = reinterpret_cast<unsigned long long*>(sort.counts + int64_t(blockIdx.x) * sort.segments);
  for (int64_t row = sort.chunk_begin(blockIdx.x) + threadIdx.x; row < end; row += blockDim.x)
    atomicAdd(counts + checked_label(sort, row), 1ull);
}

// From counts to the position of each chunk's first row of each label. One block.
template <int Unused = 0>
__global__ void __launch_bounds__(512) scan_labels(LabelSort sort) {
  __shared__ int64_t warp_total[16];
  __shared__ int64_t carry;
  const int thread = int(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp, warps = int(blockDim.x) / kWarp;
  if (thread == 0) carry = 0;
  for (int64_t first = 0; first < sort.segments; first += blockDim.x) {
    const int64_t k = first + thread;
    int64_t total = 0;
    if (k < sort.segments)
      for (int chunk = 0; chunk < sort.chunks; ++chunk) total += sort.counts[chunk * sort.segments + k];
    int64_t before = total;  // inclusive within the warp, for now
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) {
      const int64_t other = __shfl_up_sync(kAllLanes, before, step);
      if (lane >= step) before += other;
    }
    if (lane == kWarp - 1) warp_total[warp] = before;
    __syncthreads();
    int64_t position = carry + before - total;
    for (int w = 0; w < warp; ++w) position += warp_total[w];
    __syncthreads();
    if (thread == 0)
      for (int w = 0; w < warps; ++w) carry += warp_total[w];
    if (k < sort.segments) {
      sort.begin[k] = position;
      for (int chunk = 0; chunk < sort.chunks; ++chunk) {
        int64_t& count = sort.counts[chunk * sort.segments + k];
        const int64_t here = count;
        count = position;
        position += here;
      }
    }
    __syncthreads();
  }
  if (thread == 0) sort.begin[sort.segments] = sort.n;
}

// One warp a chunk.
template <int Unused = 0>
__global__ void __launch_bounds__(kWarp) place_labels(LabelSort sort) {
  const int lane = int(threadIdx.x);
  const int64_t end = sort.chunk_begin(blockIdx.x + 1);
  int64_t* next = sort.counts + int64_t(blockIdx.x) * sort.segments;
  for (int64_t first = sort.chunk_begin(blockIdx.x); first < end; first += kWarp) {
    const int64_t row = first + lane;
    const int64_t label = row < end ? read(sort.labels + row) : -1;
    const unsigned same = same_label(label);
    const int64_t position = row < end ? next[label] : 0;
    __syncwarp();  // all have read before the first of each label moves on
    if (row < end) {
      write(sort.order + position + __popc(same & ((1u << lane) - 1)), row);
      if (lane == __ffs(int(same)) - 1) next[label] = position + __popc(same);
    }
    __syncwarp();
  }
}

inline cudaError_t run_sort_labels(const LabelSort& sort, cudaStream_t stream) {
  DESC_EXT_TRY(launch(count_labels<>, dim3(unsigned(sort.chunks)), 256, 0, stream, sort));
  DESC_EXT_TRY(launch(scan_labels<>, dim3(1), 512, 0, stream, sort));
  return launch(place_labels<>, dim3(unsigned(sort.chunks)), kWarp, 0, stream, sort);
}

// ---------------------------------------------------------------- gradient of the Gram matrices
// dz_i = weight_i (G + Gᵀ) z_i and dweight_i = z_iᵀ G z_i with G = grad of the row's segment. A block takes some rows
// that follow each other in the sorted order, so that they share most reads of G: 4·n·p² operations, bytes p²·8 for
// each group of rows and segment, from L2.
template <class T>
struct GramRows {
  Rows z;  // with the index of the sorted order
  int64_t n, segments;
  const int64_t* begin;
  const T* grad;              // [segments, p, p]
  const T* weight = nullptr;  // [n] or null
  MutableRows dz = {};        // data null where not needed
  T* dweight = nullptr;       // [n] or null
  int rows = 1;               // of a block, at most kGramRows
};

inline constexpr int kGramRows = 16, kGramThreads = 128;

template <class T>
__global__ void __launch_bounds__(kGramThreads) gram_rows(GramRows<T> job) {
  __shared__ T partial[kGramThreads / kWarp];
  T* z = static_cast<T*>(dynamic_shared());  // [rows, p]
  const int64_t p = job.z.width, first = int64_t(blockIdx.x) * job.rows;
  const int count = int(job.n - first < job.rows ? job.n - first : job.rows);
  for (int r = 0; r < count; ++r)
    for (int64_t j = threadIdx.x; j < p; j += kGramThreads)
      z[r * p + j] = load_element<T>(job.z.data, job.z.storage, read(job.z.index + first + r) * p + j);
  __syncthreads();
  Moments<T> segments{};
  segments.begin = job.begin, segments.segments = job.segments, segments.n = job.n;
  for (int64_t k = segment_at(segments, first); k < job.segments && read(job.begin + k) < first + count; ++k) {
    const int64_t begin = read(job.begin + k), end = read(job.begin + k + 1);
    const int low = begin > first ? int(begin - first) : 0, high = end < first + count ? int(end - first) : count;
    if (low >= high) continue;
    T dot[kGramRows] = {};
    for (int64_t a = threadIdx.x; a < p; a += kGramThreads) {
      T sum[kGramRows] = {};
      const T* grad = job.grad + k * p * p;
      for (int64_t b = 0; b < p; ++b) {
        const T g = read(grad + a * p + b) + read(grad + b * p + a);
#pragma unroll
        for (int r = 0; r < kGramRows; ++r)
          if (r < count) sum[r] += g * z[r * p + b];
      }
#pragma unroll
      for (int r = 0; r < kGramRows; ++r) {
        if (r < low || r >= high) continue;
        dot[r] += sum[r] * z[r * p + a];
        const int64_t row = read(job.z.index + first + r);
        if (job.dz.data)
          store_element<T>(job.dz.data, job.dz.storage, row * p + a,
                           job.weight ? read(job.weight + row) * sum[r] : sum[r]);
      }
    }
    if (!job.dweight) continue;
#pragma unroll
    for (int r = 0; r < kGramRows; ++r) {
      const T total = block_sum(dot[r], partial);  // (G + Gᵀ) counts every product twice
      if (threadIdx.x == 0 && r >= low && r < high) write(job.dweight + read(job.z.index + first + r), total / 2);
    }
  }
}

template <class T>
cudaError_t run_gram_rows(GramRows<T> job, cudaStream_t stream) {
  const int64_t fit = (int64_t(32) << 10) / (job.z.width * int64_t(sizeof(T)));
  job.rows = int(fit < 1 ? 1 : fit > kGramRows ? kGramRows : fit);
  return launch(gram_rows<T>, dim3(unsigned(ceil_div<int64_t>(job.n, job.rows))), kGramThreads,
                size_t(job.rows * job.z.width) * sizeof(T), stream, job);
}

// ---------------------------------------------------------------- each row and its own subspace
// With k = labels_i, a = S̃_kᵀ z_i: coefficients [n, d] = g_i a, and dz_i = 2 g_i S̃_k a for the energy, 2 g_i (z_i −
// S̃_k (scale∘a)) for the residual. One warp a row: 4·n·p·d operations, bytes 8·p·d a row from L2.
template <class T>
struct OwnSubspace {
  Rows z;
  int64_t n, p, d;
  Metric metric;
  const int64_t* labels;
  const T* grad;  // [n]
  const T *rotated, *scale;
  T* coefficients;  // [n, d]
  MutableRows dz;   // data null where not needed
};

template <class T>
__global__ void __launch_bounds__(256) own_subspace(OwnSubspace<T> job) {
  const int lane = int(threadIdx.x) % kWarp;
  const int64_t row = int64_t(blockIdx.x) * (blockDim.x / kWarp) + threadIdx.x / kWarp;
  if (row >= job.n) return;
  const int64_t k = read(job.labels + row);
  const T g = read(job.grad + row);
  const T* basis = job.rotated + k * job.d * job.p;
  T* coefficient = job.coefficients + row * job.d;
  for (int64_t c = 0; c < job.d; ++c) {
    T sum = 0;
    for (int64_t j = lane; j < job.p; j += kWarp)
      sum += load_element<T>(job.z.data, job.z.storage, row * job.p + j) * read(basis + c * job.p + j);
    sum = warp_sum(sum);
    if (lane == 0) write(coefficient + c, g * sum);
  }
  if (!job.dz.data) return;
  __syncwarp();
  for (int64_t j = lane; j < job.p; j += kWarp) {
    T sum = 0;
    for (int64_t c = 0; c < job.d; ++c) {
      const T a = job.metric == Metric::residual ? read(coefficient + c) * read(job.scale + k * job.d + c)
                                                 : read(coefficient + c);
      sum += a * read(basis + c * job.p + j);
    }
    const T value =
        job.metric == Metric::residual ? g * load_element<T>(job.z.data, job.z.storage, row * job.p + j) - sum : sum;
    store_element<T>(job.dz.data, job.dz.storage, row * job.p + j, 2 * value);
  }
}

template <class T>
cudaError_t run_own_subspace(const OwnSubspace<T>& job, cudaStream_t stream) {
  constexpr int warps = 8;
  return launch(own_subspace<T>, dim3(unsigned(ceil_div<int64_t>(job.n, warps))), warps * kWarp, 0, stream, job);
}

}  // namespace desc_ext::cuda
