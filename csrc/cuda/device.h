// What all kernels share: matrices in global memory, elements of any storage type, sums over a warp and a block. The
// functions that CUDA has no portable name for are in platform.h. No torch header here or in any .cuh.
#pragma once

#include "platform.h"

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

template <class T>
struct alignas(16) Pack {  // 16 bytes, what one load or store moves
  static constexpr int size = 16 / sizeof(T);
  T at[size];
};

// Every access of the kernels to global memory passes through read and write, or copy_async: tests count them.
template <class V>
__device__ __forceinline__ V read(const V* pointer) {
  count_load(sizeof(V));
  return *pointer;
}

template <class V>
__device__ __forceinline__ void write(V* pointer, const V& value) {
  count_store(sizeof(V));
  *pointer = value;
}

__device__ __forceinline__ float half_to_float(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
__device__ __forceinline__ uint16_t float_to_half(float x) { return __half_as_ushort(__float2half_rn(x)); }
__device__ __forceinline__ float bfloat_to_float(uint16_t bits) { return __uint_as_float(uint32_t(bits) << 16); }
__device__ __forceinline__ uint16_t float_to_bfloat(float x) { return __bfloat16_as_ushort(__float2bfloat16_rn(x)); }

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

// Number of multiprocessors of the current device: what the grids are cut by where rows alone do not fill it.
inline int multiprocessors() {
  int device = 0, count = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count > 0 ? count : 1;
}

// Whether the current device's tensor cores add products of float16 in float32 as fast as they multiply: A100, H100.
inline bool full_rate_tensor_cores() {
  int device = 0, major = 0, minor = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  return (major == 8 || major == 9) && minor == 0;
}

// Bytes of workspace that an operator keeps within. Tests set smaller ones, which small inputs reach.
struct Limits {
  int64_t piece = int64_t(64) << 20;    // coefficients of a piece of rows
  int64_t partial = int64_t(32) << 20;  // sums of rows by parts of their depth
  int64_t pairs = int64_t(32) << 20;    // values of a block of pairs: they stay in L2
};

template <class I>
constexpr I ceil_div(I a, I b) {
  return (a + b - 1) / b;
}

#define DESC_EXT_TRY(expression)                                                       \
  do {                                                                                 \
    if (const cudaError_t error_ = (expression); error_ != cudaSuccess) return error_; \
  } while (0)

}  // namespace desc_ext::cuda
