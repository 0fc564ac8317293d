// Moments Σ_i weight_i x_i y_iᵀ of rows x [n, X] and y [n, Y], over all rows or over each segment of sorted rows: Gram
// matrices, and the gradients of bases and centroids.
//
// Operations 2·n·X·Y; bytes n·(X + Y)·w a pass over the tiles of the other side, from L2 after the first.
//
// Tiling. A block of (8, Y/8) threads holds a tile of 64 × 128 (or 64 × 64 where Y is small; 32 × … in float64) of the
// result in registers, 8 × 8 for each thread, and reads its chunk of rows through shared memory, 16 rows (64 bytes of
// each column) at a time in two buffers filled by asynchronous copies. Rows are already contiguous along the tile, so
// nothing is transposed; a thread's columns are packs of 16 bytes that lie 8 (Y/8) packs apart, so loads of 128 bits
// touch all banks once. FFMA : shared loads = 64 : 4 for each row.
//
// Rows are cut into chunks by shape and by the number of multiprocessors. A segment inside one chunk is written at
// once; the pieces of one that reaches over chunks stand in slots of their own and are added in order by a second
// kernel: two deterministic stages, no atomics.
//
// Registers 64 + 16 + addresses; shared 2 × 16 × (64 + 128) × 4 bytes.
// budget: moments_tile<float.* registers <= 128, shared <= 0, dynamic <= 24704
// budget: moments_tile<double.* registers <= 168, shared <= 0, dynamic <= 20608
// budget: moments_combine.* registers <= 48, shared <= 0, dynamic <= 0
#pragma once

#include "product.cuh"

namespace desc_ext::cuda {

inline constexpr int kMomentX = 8;  // threads along x

template <class T>
struct MomentShape {
  static constexpr int pack = 16 / sizeof(T);
  static constexpr int thread_x = sizeof(T) == 8 ? 4 : 8, thread_y = 8;
  static constexpr int x = kMomentX * thread_x;
  static constexpr int depth = 64 / sizeof(T);
};

template <class T>
struct Moments {
  Rows x, y;  // both with the index of the sorted order, where rows are sorted
  CopyMode x_mode, y_mode;
  const T* weight;       // [n] or null
  const int64_t* begin;  // [segments + 1] positions, or null: all rows are one segment
  int64_t n, segments;
  int chunks;
  bool symmetric;  // x and y are the same rows: one triangle is computed
  bool accumulate;
  T* out;    // [segments, X, Y]
  T* slots;  // [2 · chunks, X, Y], or [chunks, X, Y] for one segment

  __host__ __device__ int64_t chunk_begin(int64_t chunk) const { return n * chunk / chunks; }
  __device__ __forceinline__ int64_t chunk_of(int64_t position) const { return ((position + 1) * chunks - 1) / n; }
  // Where the piece in `chunk` of a segment stands that begins before it, or that begins in it and goes on.
  __device__ __forceinline__ T* slot(int64_t chunk, bool begins) const {
    return slots + (begin ? 2 * chunk + begins : chunk) * x.width * y.width;
  }
  __device__ __forceinline__ int64_t segment_begin(int64_t k) const { return begin ? read(begin + k) : k == 0 ? 0 : n; }
};

// The last segment that begins at or before the position.
template <class T>
__device__ __forceinline__ int64_t segment_at(const Moments<T>& job, int64_t position) {
  int64_t low = 0, high = job.segments;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (job.segment_begin(middle) <= position)
      low = middle;
    else
      high = middle;
  }
  return low;
}

template <class T, int TileY, bool Weighted>
struct MomentTile {
  using Shape = MomentShape<T>;
  static constexpr int thread_y = Shape::thread_y, threads = kMomentX * TileY / thread_y, lanes_y = TileY / thread_y;
  static constexpr int x_size = Shape::depth * Shape::x, y_size = Shape::depth * TileY;
  static constexpr int weights = Weighted ? Shape::depth : 0, stage = x_size + y_size + weights;

  const Moments<T>& job;
  T* shared;
  int64_t first_x = 0, first_y = 0;
  int tx = 0, ty = 0;
  T sum[Shape::thread_x][thread_y] = {};

  __device__ __forceinline__ void fill(int buffer, int64_t from, int64_t to) {
    T* x = shared + buffer * stage;
    T *y = x + x_size, *weight = y + y_size;
    const int thread = thread_index();
    constexpr int x_packs = Shape::x / Shape::pack, y_packs = TileY / Shape::pack;
    for (int c = thread; c < Shape::depth * x_packs; c += threads) {
      const int row = c / x_packs, column = c % x_packs * Shape::pack;
      copy_pack<T>(x + row * Shape::x + column, job.x, job.x_mode, from + row, first_x + column,
                   from + row < to ? clamp(job.x.width - first_x - column) : 0);
    }
    for (int c = thread; c < Shape::depth * y_packs; c += threads) {
      const int row = c / y_packs, column = c % y_packs * Shape::pack;
      copy_pack<T>(y + row * TileY + column, job.y, job.y_mode, from + row, first_y + column,
                   from + row < to ? clamp(job.y.width - first_y - column) : 0);
    }
    if constexpr (Weighted)
      for (int row = thread; row < Shape::depth; row += threads)
        weight[row] =
            from + row < to ? read(job.weight + (job.y.index ? read(job.y.index + from + row) : from + row)) : T(0);
    commit_copies();
  }

  static __device__ __forceinline__ int clamp(int64_t count) { return count < 0 ? 0 : count > 64 ? 64 : int(count); }

  __device__ __forceinline__ void multiply(int buffer) {
    const T* x = shared + buffer * stage + ty * Shape::pack;
    const T* y = shared + buffer * stage + x_size + tx * Shape::pack;
    const T* weight = shared + buffer * stage + x_size + y_size;
#pragma unroll 2
    for (int row = 0; row < Shape::depth; ++row) {
      T a[Shape::thread_x], b[thread_y];
#pragma unroll
      for (int h = 0; h < Shape::thread_x / Shape::pack; ++h) {
        const auto piece = *reinterpret_cast<const Pack<T>*>(x + row * Shape::x + h * kMomentX * Shape::pack);
#pragma unroll
        for (int u = 0; u < Shape::pack; ++u)
          a[h * Shape::pack + u] = Weighted ? piece.at[u] * weight[row] : piece.at[u];
      }
#pragma unroll
      for (int h = 0; h < thread_y / Shape::pack; ++h) {
        const auto piece = *reinterpret_cast<const Pack<T>*>(y + row * TileY + h * lanes_y * Shape::pack);
#pragma unroll
        for (int u = 0; u < Shape::pack; ++u) b[h * Shape::pack + u] = piece.at[u];
      }
#pragma unroll
      for (int i = 0; i < Shape::thread_x; ++i)
#pragma unroll
        for (int j = 0; j < thread_y; ++j) sum[i][j] += a[i] * b[j];
    }
  }

  __device__ __forceinline__ void accumulate(int64_t from, int64_t to) {
#pragma unroll
    for (int i = 0; i < Shape::thread_x; ++i)
#pragma unroll
      for (int j = 0; j < thread_y; ++j) sum[i][j] = T(0);
    __syncthreads();  // the segment before may still be read
    fill(0, from, to);
    int buffer = 0;
    for (int64_t row = from; row < to; row += Shape::depth) {
      wait_copies<0>();
      __syncthreads();
      if (row + Shape::depth < to) fill(buffer ^ 1, row + Shape::depth, to);
      multiply(buffer);
      buffer ^= 1;
    }
  }

  __device__ __forceinline__ void store(T* to, bool add) const {
    const int64_t X = job.x.width, Y = job.y.width;
    const int thread = thread_index(), tx = thread % lanes_y, ty = thread / lanes_y;
#pragma unroll
    for (int i = 0; i < Shape::thread_x; ++i)
#pragma unroll
      for (int j = 0; j < thread_y; ++j) {
        const int64_t a = first_x + (i / Shape::pack * kMomentX + ty) * Shape::pack + i % Shape::pack;
        const int64_t b = first_y + (j / Shape::pack * lanes_y + tx) * Shape::pack + j % Shape::pack;
        if (a >= X || b >= Y || (job.symmetric && b < a)) continue;
        T* at = to + a * Y + b;
        const T value = add ? read(at) + sum[i][j] : sum[i][j];
        write(at, value);
        if (job.symmetric && b > a) write(to + b * Y + a, value);
      }
  }
};

template <class T, int TileY, bool Weighted>
__global__ void __launch_bounds__(TileY, sizeof(T) == 8 ? 2 : 512 / TileY) moments_tile(Moments<T> job) {
  using Tile = MomentTile<T, TileY, Weighted>;
  const int64_t tiles_y = (job.y.width + TileY - 1) / TileY;
  Tile tile{job, static_cast<T*>(dynamic_shared())};
  tile.first_x = blockIdx.x / tiles_y * Tile::Shape::x, tile.first_y = blockIdx.x % tiles_y * TileY;
  if (job.symmetric && tile.first_y + TileY <= tile.first_x) return;  // below the diagonal
  tile.tx = int(threadIdx.x) % Tile::lanes_y, tile.ty = int(threadIdx.x) / Tile::lanes_y;
  const int64_t chunk = blockIdx.y, begin = job.chunk_begin(chunk), end = job.chunk_begin(chunk + 1);
  const int64_t size = job.x.width * job.y.width;
  for (int64_t k = segment_at(job, begin); k < job.segments && job.segment_begin(k) < end; ++k) {
    const int64_t segment_begin = job.segment_begin(k), segment_end = job.segment_begin(k + 1);
    const int64_t from = segment_begin > begin ? segment_begin : begin, to = segment_end < end ? segment_end : end;
    if (from >= to) continue;
    tile.accumulate(from, to);
    const bool whole = segment_begin >= begin && segment_end <= end;
    tile.store(whole ? job.out + k * size : job.slot(chunk, segment_begin >= begin), whole && job.accumulate);
  }
}

// Adds up the pieces of segments that reach over chunks, in order; empty segments become zero. One thread an element.
template <class T>
__global__ void __launch_bounds__(256) moments_combine(Moments<T> job) {
  const int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, size = job.x.width * job.y.width;
  if (at >= job.segments * size) return;
  const int64_t k = at / size, element = at % size, begin = job.segment_begin(k), end = job.segment_begin(k + 1);
  if (begin == end) {
    if (!job.accumulate) write(job.out + at, T(0));
    return;
  }
  const int64_t first = job.chunk_of(begin), last = job.chunk_of(end - 1);
  if (first == last) return;
  T sum = read(job.slot(first, true) + element);
  for (int64_t chunk = first + 1; chunk <= last; ++chunk) sum += read(job.slot(chunk, false) + element);
  write(job.out + at, job.accumulate ? read(job.out + at) + sum : sum);
}

// Chunks: enough to fill the device, each of some stages at least, the slots within 4 MiB.
template <class T>
int moment_chunks(int64_t n, int64_t X, int64_t Y, bool segmented) {
  const int64_t tiles = ceil_div<int64_t>(X, MomentShape<T>::x) * ceil_div<int64_t>(Y, 128);
  const int64_t wanted = ceil_div<int64_t>(8 * multiprocessors(), tiles);
  const int64_t by_rows = n / (4 * MomentShape<T>::depth);
  const int64_t by_memory = (int64_t(segmented ? 2 : 4) << 20) / (X * Y * int64_t(sizeof(T)));
  int64_t chunks = wanted < by_rows ? wanted : by_rows;
  chunks = chunks < by_memory ? chunks : by_memory;
  return int(chunks < 1 ? 1 : chunks > 1024 ? 1024 : chunks);
}

template <class T>
int64_t moment_slots(const Moments<T>& job) {
  return job.chunks == 1 ? 0 : (job.begin ? 2 : 1) * int64_t(job.chunks) * job.x.width * job.y.width;
}

// `n` rows of x and y, in `segments` that begin at the positions `begin` (null: one). The caller sets out, and slots to
// moment_slots() elements.
template <class T>
Moments<T> make_moments(const Rows& x, const Rows& y, int64_t n, const int64_t* begin = nullptr, int64_t segments = 1) {
  Moments<T> job{};
  job.x = x, job.y = y, job.x_mode = copy_mode<T>(x), job.y_mode = copy_mode<T>(y);
  job.begin = begin, job.n = n, job.segments = segments;
  job.chunks = moment_chunks<T>(n, x.width, y.width, begin != nullptr);
  return job;
}

template <class T, int TileY, bool Weighted>
cudaError_t launch_moments(const Moments<T>& job, cudaStream_t stream) {
  using Tile = MomentTile<T, TileY, Weighted>;
  const int64_t tiles = ceil_div<int64_t>(job.x.width, Tile::Shape::x) * ceil_div<int64_t>(job.y.width, TileY);
  return launch(moments_tile<T, TileY, Weighted>, dim3(unsigned(tiles), unsigned(job.chunks)), Tile::threads,
                2 * Tile::stage * sizeof(T), stream, job);
}

template <class T>
cudaError_t run_moments(const Moments<T>& job, cudaStream_t stream) {
  if (job.y.width > 64)
    DESC_EXT_TRY(job.weight ? (launch_moments<T, 128, true>(job, stream))
                            : (launch_moments<T, 128, false>(job, stream)));
  else
    DESC_EXT_TRY(job.weight ? (launch_moments<T, 64, true>(job, stream)) : (launch_moments<T, 64, false>(job, stream)));
  if (job.chunks == 1 && !job.begin) return cudaSuccess;
  const int64_t elements = job.segments * job.x.width * job.y.width;
  return launch(moments_combine<T>, dim3(unsigned(ceil_div<int64_t>(elements, 256))), 256, 0, stream, job);
}

}  // namespace desc_ext::cuda
