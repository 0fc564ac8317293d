// What the kernels stand on: CUDA under nvcc, csrc/host_cuda under a C++ compiler, which runs the same source on the
// CPU in tests. No torch header here or in any .cuh.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <utility>
#else
#include <bit>

#include "../host_cuda/runtime.h"
#endif

namespace desc_ext::cuda {

enum class Storage : int32_t { f32, f64, f16, bf16 };

// A matrix in global memory, row-major without gaps; `index`, where given, names the row that stands at each position.
struct Rows {
  const void* data;
  Storage storage;
  int64_t width;
  const int64_t* index;
};

struct MutableRows {
  void* data;
  Storage storage;
  int64_t width;
};

inline constexpr unsigned kAllLanes = 0xffffffffu;
inline constexpr int kWarp = 32;

template <class T>
struct alignas(16) Pack {  // 16 bytes, what one load or store moves
  static constexpr int size = 16 / sizeof(T);
  T at[size];
};

// Every access of the kernels to global memory passes through read and write, so that the tests can count them.
template <class V>
__device__ __forceinline__ V read(const V* pointer) {
#ifndef __CUDACC__
  host_cuda::count_load(sizeof(V));
#endif
  return *pointer;
}

template <class V>
__device__ __forceinline__ void write(V* pointer, const V& value) {
#ifndef __CUDACC__
  host_cuda::count_store(sizeof(V));
#endif
  *pointer = value;
}

__device__ __forceinline__ void* dynamic_shared() {
#ifdef __CUDACC__
  extern __shared__ __align__(16) unsigned char desc_ext_dynamic_shared[];
  return desc_ext_dynamic_shared;
#else
  return host_cuda::dynamic_shared();
#endif
}

// Copies Bytes (4, 8 or 16) from global to shared memory, of which the first `valid` are read and the rest are zero.
// What is copied can be read after wait_copies and a barrier.
template <int Bytes>
__device__ __forceinline__ void copy_async(void* shared, const void* global, int valid) {
#ifdef __CUDACC__
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  if constexpr (Bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(valid) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global), "n"(Bytes), "r"(valid) : "memory");
#else
  host_cuda::count_load(valid);
  host_cuda::copy_async(shared, global, Bytes, valid);
#endif
}

__device__ __forceinline__ void commit_copies() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  host_cuda::commit_copies();
#endif
}

// Waits until at most Groups of this thread's committed groups are under way.
template <int Groups>
__device__ __forceinline__ void wait_copies() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_group %0;" ::"n"(Groups) : "memory");
#else
  host_cuda::wait_copies(Groups);
#endif
}

#ifdef __CUDACC__
__device__ __forceinline__ float half_to_float(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
__device__ __forceinline__ uint16_t float_to_half(float x) { return __half_as_ushort(__float2half_rn(x)); }
__device__ __forceinline__ float bfloat_to_float(uint16_t bits) { return __uint_as_float(uint32_t(bits) << 16); }
__device__ __forceinline__ uint16_t float_to_bfloat(float x) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(x));
}
#else
inline float bfloat_to_float(uint16_t bits) { return std::bit_cast<float>(uint32_t(bits) << 16); }
inline uint16_t float_to_bfloat(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t(bits >> 16 | 0x40);
  return uint16_t((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}
inline float half_to_float(uint16_t bits) {
  const uint32_t sign = uint32_t(bits & 0x8000) << 16, rest = bits & 0x7fff;
  if (rest >= 0x7c00) return std::bit_cast<float>(sign | 0x7f800000u | (rest & 0x3ff) << 13);
  // Scaling by 2^112 moves the exponent's bias and gives subnormals their value.
  const float magnitude = std::bit_cast<float>(rest << 13) * 0x1p112f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
}
inline uint16_t float_to_half(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffffu;
  if (rest > 0x7f800000u) return uint16_t(sign | 0x7e00);
  if (rest >= 0x477ff000u) return uint16_t(sign | 0x7c00);  // rounds to 65536 or more
  if (rest < 0x38800000u)                                   // subnormal: let the addition round to 2^-24
    return uint16_t(sign | (std::bit_cast<uint32_t>(std::bit_cast<float>(rest) + 0.5f) - 0x3f000000u));
  return uint16_t(sign | (rest - 0x38000000u + 0xfffu + (rest >> 13 & 1)) >> 13);
}
#endif

template <class T>
__device__ __forceinline__ T load_element(const void* data, Storage storage, int64_t at) {
  if constexpr (sizeof(T) == 8)
    if (storage == Storage::f64) return read(static_cast<const double*>(data) + at);
  if (storage == Storage::f32) return T(read(static_cast<const float*>(data) + at));
  const uint16_t bits = read(static_cast<const uint16_t*>(data) + at);
  return T(storage == Storage::f16 ? half_to_float(bits) : bfloat_to_float(bits));
}

template <class T>
__device__ __forceinline__ void store_element(void* data, Storage storage, int64_t at, T value) {
  if (sizeof(T) == 8 && storage == Storage::f64) {
    write(static_cast<double*>(data) + at, double(value));
  } else if (storage == Storage::f32) {
    write(static_cast<float*>(data) + at, float(value));
  } else {
    write(static_cast<uint16_t*>(data) + at,
          storage == Storage::f16 ? float_to_half(float(value)) : float_to_bfloat(float(value)));
  }
}

// threadIdx.x, read anew at every call: what follows from it is computed where it is used, and does not occupy registers
// through a loop around it.
__device__ __forceinline__ int thread_index() {
#ifdef __CUDACC__
  int index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
#else
  return int(threadIdx.x);
#endif
}

// Loads behind it are not moved before it: an epilogue that is unrolled over many rows does not hold all of them at once.
__device__ __forceinline__ void keep_order() {
#ifdef __CUDACC__
  asm volatile("" ::: "memory");
#endif
}

template <class T>
__device__ __forceinline__ T warp_sum(T value) {  // the same bits in every lane
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

// Sum over the block in a fixed order, in thread 0; `partial` holds one T for each warp.
template <class T>
__device__ __forceinline__ T block_sum(T value, T* partial) {
  const int warp = int(threadIdx.x) / kWarp, lane = int(threadIdx.x) % kWarp, warps = int(blockDim.x) / kWarp;
  value = warp_sum(value);
  if (lane == 0) partial[warp] = value;
  __syncthreads();
  if (warp == 0) value = warp_sum(lane < warps ? partial[lane] : T(0));
  __syncthreads();
  return value;
}

template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, int threads, size_t shared_bytes, cudaStream_t stream, A&&... arguments) {
#ifdef __CUDACC__
  if (shared_bytes > 48 * 1024) {  // more than the default has to be asked for
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  kernel<<<grid, threads, shared_bytes, stream>>>(std::forward<A>(arguments)...);
  return cudaGetLastError();
#else
  return host_cuda::launch(kernel, grid, dim3(unsigned(threads)), shared_bytes, stream, std::forward<A>(arguments)...);
#endif
}

// Number of multiprocessors of the current device: what the grids are cut by where rows alone do not fill it.
inline int multiprocessors() {
#ifdef __CUDACC__
  int device = 0, count = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count > 0 ? count : 1;
#else
  return 4;
#endif
}

template <class I>
constexpr I ceil_div(I a, I b) {
  return (a + b - 1) / b;
}

#define DESC_EXT_TRY(expression)                                   \
  do {                                                             \
    if (const cudaError_t error_ = (expression); error_ != cudaSuccess) return error_; \
  } while (0)

}  // namespace desc_ext::cuda
