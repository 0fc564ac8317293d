// Moments Σ_i x_i y_iᵀ of rows on tensor cores (tensor.cuh has the arithmetic, moments.cuh the moments): the gradients
// of bases. x are float32 weights [n, X], y rows [n, Y] of any type but float64; all rows are one segment.
//
// Operations 2·n·X·Y, three products each. Here the depth are rows, so both operands are read across, by
// ldmatrix.trans, and a scale belongs to a column of x for 32 rows. The scale of a row of y goes into that row of x,
// which is float32 and loses nothing by it.
//
// Tiling. A block of 4 warps makes a tile of 128 × 128, 64 × 64 a warp, from a chunk of rows, 32 at a time: they arrive
// as float32 in one half of shared memory while the products run on the other half, where h and l of both stand in
// lines of 128 columns, packs of 8 exclusive-or the line's last 3 bits. y is split by rows, a thread 32 columns; then
// x by columns, a thread 16 rows of two. The tile's pieces from several chunks are added as in moments.cuh.
//
// Registers as in tensor.cuh; shared memory 2 × 32 × 256 × 4 bytes + scales.
// budget: product_tensor_moments.* registers <= 255, shared <= 0, dynamic <= 66176
#pragma once

#include "moments.cuh"
#include "tensor.cuh"

namespace desc_ext::cuda {

struct MomentTensorTile {
  static constexpr int depth = 32, tile = 128, threads = 128;
  static constexpr int operand = depth * tile;  // floats of one that has arrived; h and l take as much
  static constexpr int x_parts = 2 * operand, y_parts = 3 * operand, scales = 4 * operand, factors = scales + tile;
  static constexpr int floats = factors + depth;
  static constexpr int line = tile * int(sizeof(uint16_t)), part = depth * line;  // bytes

  // Where an element of h stands among those of 16 bits.
  static __device__ __forceinline__ int place(int row, int column) {
    return row * tile + (column / 8 ^ row % 8) * 8 + column % 8;
  }
};

// 32 rows from `from` on, zero beyond `count` of them.
__device__ __forceinline__ void fill_moments(const Moments<float>& job, float* shared, int first_x, int first_y,
                                             int64_t from, int count) {
  constexpr int packs = MomentTensorTile::tile / 4, step = MomentTensorTile::threads / packs;
  const int thread = thread_index(), column = thread % packs * 4;
  const auto left = [](int64_t count) { return count < 0 ? 0 : count > 4 ? 4 : int(count); };
  const int x_left = left(job.x.width - first_x - column), y_left = left(job.y.width - first_y - column);
#pragma unroll 1
  for (int row = thread / packs; row < MomentTensorTile::depth; row += step) {
    float* at = shared + row * MomentTensorTile::tile + column;
    const bool there = row < count;
    copy_pack<float>(at, job.x, job.x_mode, from + row, first_x + column, there ? x_left : 0);
    copy_pack<float>(at + MomentTensorTile::operand, job.y, job.y_mode, from + row, first_y + column,
                     there ? y_left : 0);
  }
  commit_copies();
}

// h and l of y by rows, whose scales' inverses become the factors of x.
__device__ __forceinline__ void split_moment_rows(float* shared) {
  using Tile = MomentTensorTile;
  constexpr int together = Tile::threads / Tile::depth, packs = Tile::tile / (8 * together);
  const int thread = thread_index(), row = thread / together, part = thread % together;
  const float* y = shared + Tile::operand + row * Tile::tile + part * 8;
  auto* halves = reinterpret_cast<uint16_t*>(shared + Tile::y_parts);
  float largest = 0;
#pragma unroll 1
  for (int at = 0; at < packs; ++at)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const auto four = *reinterpret_cast<const Pack<float>*>(y + at * 8 * together + 4 * half);
#pragma unroll
      for (int v = 0; v < 4; ++v) largest = fmaxf(largest, fabsf(four.at[v]));
    }
#pragma unroll
  for (int lane = 1; lane < together; lane *= 2) largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, lane));
  const PowerScale power(largest);
  if (part == 0) shared[Tile::factors + row] = power.inverse;
#pragma unroll 1
  for (int at = 0; at < packs; ++at) {
    HalfPack h, l;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const auto four = *reinterpret_cast<const Pack<float>*>(y + at * 8 * together + 4 * half);
#pragma unroll
      for (int v = 0; v < 2; ++v)
        split(four.at[2 * v] * power.scale, four.at[2 * v + 1] * power.scale, h.at[2 * half + v], l.at[2 * half + v]);
    }
    uint16_t* to = halves + Tile::place(row, (at * together + part) * 8);
    *reinterpret_cast<HalfPack*>(to) = h;
    *reinterpret_cast<HalfPack*>(to + Tile::operand) = l;
  }
}

// h and l of x by columns, and their scales' inverses in the order of TensorTile::scale_place().
__device__ __forceinline__ void split_moment_columns(float* shared) {
  using Tile = MomentTensorTile;
  const int thread = thread_index(), lane = thread % kWarp, column = (thread / kWarp * 16 + lane % 16) * 2;
  const int first = lane / 16 * 16;  // of 16 rows
  const float *x = shared + first * Tile::tile + column, *factor = shared + Tile::factors + first;
  auto* halves = reinterpret_cast<uint16_t*>(shared + Tile::x_parts);
  float largest[2] = {};
#pragma unroll 4
  for (int row = 0; row < 16; ++row) {
    const float2 two = *reinterpret_cast<const float2*>(x + row * Tile::tile);
    largest[0] = fmaxf(largest[0], fabsf(two.x * factor[row]));
    largest[1] = fmaxf(largest[1], fabsf(two.y * factor[row]));
  }
#pragma unroll
  for (float& all : largest) all = fmaxf(all, __shfl_xor_sync(kAllLanes, all, 16));
  const PowerScale low(largest[0]), high(largest[1]);
  if (first == 0) {
    shared[Tile::scales - TensorTile::scales + TensorTile::scale_place(column)] = low.inverse;
    shared[Tile::scales - TensorTile::scales + TensorTile::scale_place(column + 1)] = high.inverse;
  }
#pragma unroll 4
  for (int row = 0; row < 16; ++row) {
    const float2 two = *reinterpret_cast<const float2*>(x + row * Tile::tile);
    __half2 h, l;
    split(two.x * factor[row] * low.scale, two.y * factor[row] * high.scale, h, l);
    uint16_t* to = halves + Tile::place(first + row, column);
    *reinterpret_cast<__half2*>(to) = h;
    *reinterpret_cast<__half2*>(to + Tile::operand) = l;
  }
}

// The fragments of a warp, for multiply_fragments().
struct MomentFragments {
  SharedLine row, column;  // of the lane
  const float* scales;

  __device__ __forceinline__ explicit MomentFragments(const float* shared) {
    using Tile = MomentTensorTile;
    const int thread = thread_index(), warp = thread / kWarp, line = thread % 8, matrix = thread % kWarp / 8;
    const auto* halves = reinterpret_cast<const uint16_t*>(shared);
    row = shared_line(halves + 2 * Tile::x_parts + Tile::place(matrix / 2 * 8 + line, warp % 2 * 64 + matrix % 2 * 8));
    column =
        shared_line(halves + 2 * Tile::y_parts + Tile::place(matrix % 2 * 8 + line, warp / 2 * 64 + matrix / 2 * 8));
    scales = shared + Tile::scales - TensorTile::scales +
             TensorTile::scale_place(warp % 2 * TensorTile::warp_rows + thread % kWarp / 4);
  }
  __device__ __forceinline__ void rows(uint32_t (&out)[4], int tile, int k, int part) const {
    load_matrices_transposed(out, across(row, 32 * tile),
                             k * 16 * MomentTensorTile::line + part * MomentTensorTile::part);
  }
  __device__ __forceinline__ void columns(uint32_t (&out)[4], int slot, int k, int part) const {
    load_matrices_transposed(out, across(column, 16 * slot),
                             k * 16 * MomentTensorTile::line + part * MomentTensorTile::part);
  }
};

template <int Parts>
__global__ void __launch_bounds__(MomentTensorTile::threads, 2) product_tensor_moments(Moments<float> job) {
  static_assert(Parts == 3);
  using Tile = MomentTensorTile;
  // 32 bits wherever they do: little is left beside the sums.
  const int tiles_y = (int(job.y.width) + Tile::tile - 1) / Tile::tile;
  const int first_x = int(blockIdx.x) / tiles_y * Tile::tile, first_y = int(blockIdx.x) % tiles_y * Tile::tile;
  const int64_t begin = job.chunk_begin(blockIdx.y);
  const int count = int(job.chunk_begin(blockIdx.y + 1) - begin);
  float* shared = static_cast<float*>(dynamic_shared());
  TensorTile::Sum sum;
  set_zero(sum);
  fill_moments(job, shared, first_x, first_y, begin, count);
#pragma unroll 1
  for (int at = 0; at < count; at += Tile::depth) {
    wait_copies<0>();
    __syncthreads();  // the rows are there, and the products of those before are made
    split_moment_rows(shared);
    __syncthreads();
    split_moment_columns(shared);
    __syncthreads();
    const int next = at + Tile::depth;
    if (next < count) fill_moments(job, shared, first_x, first_y, begin + next, count - next);
    const int warp = thread_index() / kWarp;
    const int rows = int(job.x.width) - first_x - warp % 2 * 64, columns = int(job.y.width) - first_y - warp / 2 * 64;
    if (rows > 0 && columns > 0) multiply_fragments<Parts>(MomentFragments(shared), (columns + 7) / 8, sum);
  }
  const int thread = thread_index(), warp = thread / kWarp, lane = thread % kWarp;
  const int64_t X = job.x.width, Y = job.y.width;
  float* to = job.chunks == 1 ? job.out : job.slot(blockIdx.y, false);
  const bool add = job.chunks == 1 && job.accumulate;
#pragma unroll
  for (int s = 0; s < TensorTile::warp_slots; ++s)
#pragma unroll
    for (int i = 0; i < TensorTile::row_tiles; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int64_t a = first_x + warp % 2 * 64 + i * 16 + j / 2 * 8 + lane / 4;
        const int64_t b = first_y + warp / 2 * 64 + s * 8 + lane % 4 * 2 + j % 2;
        if (a >= X || b >= Y) continue;
        float* at = to + a * Y + b;
        const float value = sum[i * TensorTile::warp_slots + s][j];
        write(at, add ? read(at) + value : value);
        keep_order();
      }
}

// Whether the moments of x and y take tensor cores: where a third of the quarters of tiles is in use.
inline bool tensor_moments_pay(int64_t X, int64_t Y) {
  constexpr int64_t quarter = MomentTensorTile::tile / 2;
  return 3 * X * Y >= ceil_div(X, quarter) * quarter * ceil_div(Y, quarter) * quarter;
}

inline bool takes_tensor_moments(int64_t X, int64_t Y) {
  const TensorCores asked = tensor_cores_asked();
  return asked == TensorCores::always ||
         (asked == TensorCores::where_they_pay && full_rate_tensor_cores() && tensor_moments_pay(X, Y));
}

// Chunks: enough for two blocks on each multiprocessor twice over, each of at least 4 stages, slots within 24 MiB.
inline int tensor_moment_chunks(int64_t n, int64_t X, int64_t Y) {
  const int64_t tiles = ceil_div<int64_t>(X, MomentTensorTile::tile) * ceil_div<int64_t>(Y, MomentTensorTile::tile);
  const int64_t wanted = ceil_div<int64_t>(4 * multiprocessors(), tiles), by_rows = n / (4 * MomentTensorTile::depth);
  const int64_t by_memory = (int64_t(24) << 20) / (X * Y * int64_t(sizeof(float)));
  int64_t chunks = wanted < by_rows ? wanted : by_rows;
  chunks = chunks < by_memory ? chunks : by_memory;
  return int(chunks < 1 ? 1 : chunks > 1024 ? 1024 : chunks);
}

// As run_moments(), of a job whose chunks are tensor_moment_chunks().
inline cudaError_t launch_tensor_moments(const Moments<float>& job, cudaStream_t stream) {
  const int64_t tiles =
      ceil_div<int64_t>(job.x.width, MomentTensorTile::tile) * ceil_div<int64_t>(job.y.width, MomentTensorTile::tile);
  DESC_EXT_TRY(launch(product_tensor_moments<3>, dim3(unsigned(tiles), unsigned(job.chunks)), MomentTensorTile::threads,
                      MomentTensorTile::floats * sizeof(float), stream, job));
  if (job.chunks == 1) return cudaSuccess;
  return launch(moments_combine<float>, dim3(unsigned(ceil_div<int64_t>(job.x.width * job.y.width, 256))), 256, 0,
                stream, job);
}

}  // namespace desc_ext::cuda
