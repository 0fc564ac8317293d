// Kernels that selftest.cpp tries the emulator with: right ones first, then one for each misuse it must name.
#pragma once

#include <cuda_runtime.h>

namespace emulator::selftest {

inline constexpr unsigned kAll = 0xFFFFFFFFu;

__global__ void write_indices(int64_t* out) {  // out[block][thread]
  const int64_t block = (int64_t(blockIdx.z) * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const int64_t thread = (int64_t(threadIdx.z) * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + thread;
}

template <int Tile>
__global__ void __launch_bounds__(Tile* Tile) product(const float* a, const float* b, float* c, int m, int n, int k) {
  __shared__ float tile_a[Tile][Tile + 1], tile_b[Tile][Tile + 1];
  const int x = int(threadIdx.x), y = int(threadIdx.y);
  const int row = int(blockIdx.y) * Tile + y, column = int(blockIdx.x) * Tile + x;
  float sum = 0;
  for (int at = 0; at < k; at += Tile) {
    tile_a[y][x] = row < m && at + x < k ? a[row * k + at + x] : 0.0f;
    tile_b[y][x] = at + y < k && column < n ? b[(at + y) * n + column] : 0.0f;
    __syncthreads();
    for (int i = 0; i < Tile; ++i) sum += tile_a[y][i] * tile_b[i][x];
    __syncthreads();
  }
  if (row < m && column < n) c[row * n + column] = sum;
}

// One row a block; the row lies in dynamic shared memory.
__global__ void softmax(const float* in, float* out, int columns) {
  auto* row = static_cast<float*>(dynamic_shared());
  __shared__ float partial[32];
  const int lane = int(threadIdx.x) % warpSize, warp = int(threadIdx.x) / warpSize, warps = int(blockDim.x) / warpSize;
  in += int64_t(blockIdx.x) * columns, out += int64_t(blockIdx.x) * columns;
  float largest = -INFINITY, sum = 0;
  for (int i = int(threadIdx.x); i < columns; i += int(blockDim.x)) largest = fmaxf(largest, row[i] = in[i]);
  for (int step = 16; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(kAll, largest, step));
  if (lane == 0) partial[warp] = largest;
  __syncthreads();
  for (int i = 0; i < warps; ++i) largest = fmaxf(largest, partial[i]);
  __syncthreads();
  for (int i = int(threadIdx.x); i < columns; i += int(blockDim.x)) sum += row[i] = expf(row[i] - largest);
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAll, sum, step);
  if (lane == 0) partial[warp] = sum;
  __syncthreads();
  sum = 0;
  for (int i = 0; i < warps; ++i) sum += partial[i];
  for (int i = int(threadIdx.x); i < columns; i += int(blockDim.x)) out[i] = row[i] / sum;
}

// Sums chunks of `in` that come through two buffers of asynchronous copies, one chunk of 4 floats a thread at a time.
__global__ void pipelined_sum(const float* in, int size, float* out) {
  auto* buffers = static_cast<float*>(dynamic_shared());
  const int chunk = 4 * int(blockDim.x), chunks = (size + chunk - 1) / chunk, thread = int(threadIdx.x);
  const auto fetch = [&](int number) {
    if (number < chunks) {
      const int first = number * chunk + 4 * thread, valid = max(0, min(4, size - first));
      copy_async(buffers + number % 2 * chunk + 4 * thread, valid ? in + first : in, 16, 4 * valid);
      count_load(4 * valid);
    }
    commit_copies();
  };
  float sum = 0;
  fetch(0);
  for (int number = 0; number < chunks; ++number) {
    fetch(number + 1);
    wait_copies(1);
    __syncthreads();
    for (int i = 0; i < 4; ++i) sum += buffers[number % 2 * chunk + (thread + i * int(blockDim.x))];  // others' copies
    __syncthreads();
  }
  out[thread] = sum;
  count_store(4);
}

template <class T>
struct Shuffled {
  T indexed, up, down, crossed;
};

template <class T>
__global__ void shuffles(const T* in, Shuffled<T>* out, int width, int by) {
  const T value = in[threadIdx.x];
  out[threadIdx.x] = {__shfl_sync(kAll, value, by, width), __shfl_up_sync(kAll, value, unsigned(by), width),
                      __shfl_down_sync(kAll, value, unsigned(by), width), __shfl_xor_sync(kAll, value, by, width)};
}

struct Votes {
  unsigned ballot, same;
  int any, all, block_any, block_all, block_count;
};

__global__ void votes(const int* predicate, Votes* out) {
  const int yes = predicate[threadIdx.x];
  out[threadIdx.x] = {__ballot_sync(kAll, yes), __match_any_sync(kAll, yes), __any_sync(kAll, yes),
                      __all_sync(kAll, yes),    __syncthreads_or(yes),       __syncthreads_and(yes),
                      __syncthreads_count(yes)};
}

// Each third of a warp adds up its own lanes under its own mask, in two rounds.
__global__ void partial_masks(const int* in, int* out) {
  const int lane = int(threadIdx.x), third = lane % 3;
  unsigned mask = 0;
  for (int other = third; other < warpSize; other += 3) mask |= 1u << other;
  int sum = 0;
  for (int round = 0; round < 2; ++round) {
    const auto values = exchange(mask, in[lane] + round);
    for (int other = third; other < warpSize; other += 3) sum += values[size_t(other)];
  }
  out[lane] = sum;
}

// Neighbours meet through shared memory ordered by __syncwarp alone; half of the threads end before.
__global__ void warp_order(const int* in, int* out) {
  auto* shared = static_cast<int*>(dynamic_shared());
  const unsigned lane = threadIdx.x;
  if (lane >= 16) return;
  for (int round = 0; round < 3; ++round) {
    shared[lane] = in[lane] + round;
    __syncwarp(0xFFFF);
    out[lane] = shared[(lane + 1) % 16];
    __syncwarp(0xFFFF);
  }
}

__global__ void atomics(int* sum, unsigned* smallest, unsigned* largest, double* total) {
  const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
  atomicAdd(sum, 1);
  atomicMin(smallest, thread);
  atomicMax(largest, thread);
  atomicAdd(total, 0.5);
}

// The last block to finish adds up what the others left in global memory.
__global__ void last_block_sums(int* partial, unsigned* finished, int* out) {
  if (threadIdx.x != 0) return;
  partial[blockIdx.x] = int(blockIdx.x);
  __threadfence();
  if (atomicAdd(finished, 1u) + 1 < gridDim.x) return;
  __threadfence();
  int sum = 0;
  for (unsigned block = 0; block < gridDim.x; ++block) sum += partial[block];
  *out = sum;
}

__global__ void fresh_shared(float* out, int floats) {
  auto* shared = static_cast<float*>(dynamic_shared());
  for (int i = 0; i < floats; ++i)
    out[blockIdx.x] += shared[i] == shared[i] ? 1.0f : 0.0f;  // NaN alone differs from itself
  out[blockIdx.x] += reinterpret_cast<uintptr_t>(shared) % 128 == 0 ? 0.0f : 1000.0f;
  for (int i = 0; i < floats; ++i) shared[i] = 1;
}

__global__ void order_of_threads(int* next, int* out) {  // one block
  out[threadIdx.x] = (*next)++;
}

__global__ void order_of_blocks(int* next, int* out) {  // one thread a block
  out[blockIdx.x] = (*next)++;
}

// Misuse.

__global__ void divergent_barrier() {
  if (threadIdx.x == 3)
    __syncthreads();
  else
    __syncthreads();
}
__global__ void deadlock() {
  if (threadIdx.x < warpSize || threadIdx.x % warpSize >= 15)
    __syncthreads();
  else
    __shfl_sync(0x0000FFFFu, 1, 0);
}
__global__ void unequal_masks() { __shfl_sync(threadIdx.x == 3 ? 0x0000FFFFu : kAll, 1, 0); }
__global__ void lane_outside_mask() { __shfl_xor_sync(0x00000FFFu, 1, 1); }
__global__ void read_outside_mask() {
  if (threadIdx.x < 8) __shfl_down_sync(0x000000FFu, 1, 1);
}
__global__ void ended_lane() {
  if (threadIdx.x == 5) return;
  __ballot_sync(kAll, 1);
}
__global__ void divergent_collective() {
  if (threadIdx.x < 7)
    __shfl_sync(kAll, 1, 0);
  else
    __ballot_sync(kAll, 1);
}
__global__ void full_mask() { __shfl_sync(kAll, 1, 0); }
__global__ void odd_width() { __shfl_sync(kAll, 1, 0, 12); }
__global__ void misaligned_copy(const float* in, int shared_offset, int global_offset) {
  auto* shared = static_cast<float*>(dynamic_shared());
  copy_async(shared + shared_offset, in + global_offset, 16, 16);
  commit_copies();
  wait_copies(0);
}
__global__ void copy_of_odd_size(const float* in) { copy_async(dynamic_shared(), in, 12, 12); }
__global__ void copy_never_waited_for(const float* in) {
  copy_async(static_cast<float*>(dynamic_shared()) + 4 * threadIdx.x, in, 16, 16);
  commit_copies();
}
__global__ void trap() {
  if (blockIdx.y == 1 && threadIdx.x == 2) __trap();
}

// Races and overruns that only a sanitizer sees.

__global__ void race_in_block(float* out) {
  auto* shared = static_cast<float*>(dynamic_shared());
  shared[threadIdx.x] = 1;
  out[threadIdx.x] = shared[threadIdx.x ^ 1];
}
__global__ void race_across_shuffle(float* out) {  // a shuffle orders no memory
  auto* shared = static_cast<float*>(dynamic_shared());
  shared[threadIdx.x] = 1;
  __shfl_sync(kAll, 1, 0);
  out[threadIdx.x] = shared[threadIdx.x ^ 1];
}
__global__ void race_between_blocks(float* out) {
  if (threadIdx.x == 0) out[0] += 1;
}
__global__ void race_after_copy(const float* in, float* out) {  // waited for, but no barrier
  auto* shared = static_cast<float*>(dynamic_shared());
  copy_async(shared + threadIdx.x, in + threadIdx.x, 4, 4);
  commit_copies();
  wait_copies(0);
  out[threadIdx.x] = shared[threadIdx.x ^ 1];
}
__global__ void race_before_copy(const float* in, float* out) {  // the copy may land before the others have read
  auto* shared = static_cast<float*>(dynamic_shared());
  shared[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = shared[threadIdx.x ^ 1];
  copy_async(shared + threadIdx.x, in + threadIdx.x, 4, 4);
  __syncthreads();
  commit_copies();
  wait_copies(0);
}
__global__ void shared_overrun() { static_cast<float*>(dynamic_shared())[threadIdx.x + 1] = 1; }
__global__ void copy_past_the_end(const float* in) {
  copy_async(static_cast<float*>(dynamic_shared()) + 4 * threadIdx.x, in + 4 * threadIdx.x, 16, 16);
  commit_copies();
  wait_copies(0);
}
__global__ void misaligned_vector(const float* in, float4* out) {
  out[threadIdx.x] = *reinterpret_cast<const float4*>(in + 1 + 4 * threadIdx.x);
}

}  // namespace emulator::selftest
