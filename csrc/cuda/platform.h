// The seam between the kernels and what runs them, and the only file of csrc that distinguishes the two: a GPU,
// compiled by nvcc, and the CPU, compiled by a C++ compiler whose include path begins with emulator/include, which
// provides the headers below under the same names. What CUDA can only express in PTX or in nvcc's own syntax is written
// here, each in a function of a few lines beside what the emulator does instead. No torch header here or in any .cuh.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <utility>

#undef NDEBUG  // device assertions have to stop the kernel in release builds too
#include <cassert>

namespace desc_ext::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;
inline constexpr int kWarp = 32;

// ---------------------------------------------------------------- threads
// threadIdx.x, read anew at every call: what follows from it is computed where it is used, and does not occupy
// registers through a loop around it.
__device__ __forceinline__ int thread_index() {
#ifdef __CUDACC__
  int index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
#else
  return int(threadIdx.x);
#endif
}

// Loads behind it are not moved before it: an epilogue that is unrolled over many rows does not hold all of them at
// once.
__device__ __forceinline__ void keep_order() {
#ifdef __CUDACC__
  asm volatile("" ::: "memory");
#endif
}

// Stops the kernel with the text, a literal, where the condition does not hold.
#ifdef __CUDACC__
#define DESC_EXT_DEVICE_CHECK(condition, text) assert((condition) && text)
#else
#define DESC_EXT_DEVICE_CHECK(condition, text) \
  if (!(condition)) emulator::fail(text)
#endif

// ---------------------------------------------------------------- memory
// Every access of the kernels to global memory reports its bytes; on a GPU that is nothing.
__device__ __forceinline__ void count_load([[maybe_unused]] int bytes) {
#ifndef __CUDACC__
  emulator::count_load(bytes);
#endif
}

__device__ __forceinline__ void count_store([[maybe_unused]] int bytes) {
#ifndef __CUDACC__
  emulator::count_store(bytes);
#endif
}

__device__ __forceinline__ void* dynamic_shared() {
#ifdef __CUDACC__
  extern __shared__ __align__(16) unsigned char desc_ext_dynamic_shared[];
  return desc_ext_dynamic_shared;
#else
  return emulator::dynamic_shared();
#endif
}

// Copies Bytes (4, 8 or 16) from global to shared memory, of which the first `valid` are read and the rest are zero.
// What is copied can be read after wait_copies and a barrier.
template <int Bytes>
__device__ __forceinline__ void copy_async(void* shared, const void* global, int valid) {
  count_load(valid);
#ifdef __CUDACC__
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  if constexpr (Bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(valid) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global), "n"(Bytes), "r"(valid)
                 : "memory");
#else
  emulator::copy_async(shared, global, Bytes, valid);
#endif
}

__device__ __forceinline__ void commit_copies() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  emulator::commit_copies();
#endif
}

// Waits until at most Groups of this thread's committed groups are under way.
template <int Groups>
__device__ __forceinline__ void wait_copies() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_group %0;" ::"n"(Groups) : "memory");
#else
  emulator::wait_copies(Groups);
#endif
}

// ---------------------------------------------------------------- tensor cores
// The nearest TF32 value, ties away from zero.
__device__ __forceinline__ float round_to_tf32(float x) {
#ifdef __CUDACC__
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return __uint_as_float(bits);
#else
  const uint32_t bits = __float_as_uint(x);
  return (bits & 0x7f800000u) == 0x7f800000u ? x : __uint_as_float((bits + 0x1000u) & ~0x1fffu);
#endif
}

// An address in shared memory that needs no conversion at every load, and the one `floats` behind it.
#ifdef __CUDACC__
using SharedLine = unsigned;
__device__ __forceinline__ SharedLine shared_line(const float* line) {
  return static_cast<unsigned>(__cvta_generic_to_shared(line));
}
__device__ __forceinline__ SharedLine behind(SharedLine line, int floats) {
  return line + floats * static_cast<unsigned>(sizeof(float));
}
#else
using SharedLine = const float*;
inline SharedLine shared_line(const float* line) { return line; }
inline SharedLine behind(SharedLine line, int floats) { return line + floats; }
#endif

// Four 8×8 matrices of 16-bit elements, here 8 lines of 4 floats: lane l gives the address of line l % 8 of matrix l /
// 8, `offset` floats behind `line`, and gets element l % 4 of line l / 4 of each.
__device__ __forceinline__ void load_matrices(float (&out)[4], SharedLine line, int offset) {
#ifdef __CUDACC__
  uint32_t r[4];
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(behind(line, offset))
               : "memory");
  for (int i = 0; i < 4; ++i) out[i] = __uint_as_float(r[i]);
#else
  const int lane = int(threadIdx.x) % kWarp;
  const auto lines = emulator::exchange(kAllLanes, behind(line, offset));
  for (int i = 0; i < 4; ++i) out[i] = lines[i * 8 + lane / 4][lane % 4];
#endif
}

// sum [16, 8] += a [16, 8] · b [8, 8]. Lane l holds, with g = l / 4 and t = l % 4: a at (g, t), (g + 8, t), (g, t + 4),
// (g + 8, t + 4); b at (t, g), (t + 4, g); sum at (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
__device__ __forceinline__ void multiply_tf32(float (&sum)[4], const float (&a)[4], float b0, float b1) {
#ifdef __CUDACC__
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
        "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)));
#else
  struct Rows {
    float at[4];
  };
  struct Columns {
    float low, high;
  };
  const int g = int(threadIdx.x) % kWarp / 4, t = int(threadIdx.x) % 4;
  const auto rows = emulator::exchange(kAllLanes, Rows{{a[0], a[1], a[2], a[3]}});
  const auto columns = emulator::exchange(kAllLanes, Columns{b0, b1});
  for (int i = 0; i < 4; ++i) {
    const int column = 2 * t + i % 2, lower = i / 2;  // which half of the 16 rows
    for (int k = 0; k < 8; ++k)
      sum[i] += rows[g * 4 + k % 4].at[k / 4 * 2 + lower] *
                (k < 4 ? columns[column * 4 + k].low : columns[column * 4 + k - 4].high);
  }
#endif
}

// ---------------------------------------------------------------- launches
template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, int threads, size_t shared_bytes, cudaStream_t stream,
                   A&&... arguments) {
#ifdef __CUDACC__
  if (shared_bytes > 48 * 1024) {  // more than the default has to be asked for
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  kernel<<<grid, threads, shared_bytes, stream>>>(std::forward<A>(arguments)...);
  return cudaGetLastError();
#else
  return emulator::launch(kernel, grid, dim3(unsigned(threads)), shared_bytes, stream, std::forward<A>(arguments)...);
#endif
}

}  // namespace desc_ext::cuda
