// CUDA's keywords, vector types and error codes, under CUDA's names.
#pragma once

#include <cstddef>

#include "sanitizer.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__  // nothing: the standard library writes __attribute__((__noinline__))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

// Static shared memory: one copy for each OS thread, which runs one block at a time. Unlike dynamic shared memory it
// keeps what the last block left there (zeros at first), because nobody knows its extent: prefer dynamic_shared().
// AddressSanitizer guards global variables but no thread_local ones, and runs all blocks on one thread.
#ifdef EMULATOR_ADDRESS_SANITIZER
#define __shared__ static
#else
#define __shared__ static thread_local
#endif

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct uint3 {
  unsigned x, y, z;
};

// Aligned as on the device, so that UBSan reports a vector access which the device would refuse.
#define EMULATOR_VECTOR2(name, element)      \
  struct alignas(2 * sizeof(element)) name { \
    element x, y;                            \
  };                                         \
  constexpr name make_##name(element x, element y) { return name{x, y}; }
#define EMULATOR_VECTOR4(name, element)      \
  struct alignas(4 * sizeof(element)) name { \
    element x, y, z, w;                      \
  };                                         \
  constexpr name make_##name(element x, element y, element z, element w) { return name{x, y, z, w}; }
EMULATOR_VECTOR2(int2, int)
EMULATOR_VECTOR2(uint2, unsigned)
EMULATOR_VECTOR2(float2, float)
EMULATOR_VECTOR2(double2, double)
EMULATOR_VECTOR2(longlong2, long long)
EMULATOR_VECTOR4(int4, int)
EMULATOR_VECTOR4(uint4, unsigned)
EMULATOR_VECTOR4(float4, float)
#undef EMULATOR_VECTOR2
#undef EMULATOR_VECTOR4

constexpr uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }

using cudaStream_t = void*;  // launches are synchronous; the stream is ignored

enum cudaError_t {  // with CUDA's numbers
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidDevice = 101,
  cudaErrorLaunchFailure = 719,
  cudaErrorNotSupported = 801,
};

inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorLaunchFailure: return "unspecified launch failure";
    case cudaErrorNotSupported: return "operation not supported";
  }
  return "unrecognized error code";
}
