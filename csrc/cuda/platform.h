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
  extern __shared__ __align__(128) unsigned char desc_ext_dynamic_shared[];
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
// An address in shared memory that needs no conversion at every load, the one `bytes` behind it, and the one that
// differs from it in these bits.
#ifdef __CUDACC__
using SharedLine = unsigned;
__device__ __forceinline__ SharedLine shared_line(const void* line) {
  return static_cast<unsigned>(__cvta_generic_to_shared(line));
}
__device__ __forceinline__ SharedLine behind(SharedLine line, int bytes) { return line + unsigned(bytes); }
__device__ __forceinline__ SharedLine across(SharedLine line, int bits) { return line ^ unsigned(bits); }
#else
using SharedLine = const unsigned char*;
inline SharedLine shared_line(const void* line) { return static_cast<SharedLine>(line); }
inline SharedLine behind(SharedLine line, int bytes) { return line + bytes; }
inline SharedLine across(SharedLine line, int bits) {
  return reinterpret_cast<SharedLine>(reinterpret_cast<uintptr_t>(line) ^ uintptr_t(bits));
}
#endif

// Four 8×8 matrices of 16-bit elements: lane l gives the address of row l % 8 of matrix l / 8, `offset` bytes behind
// `line`, and gets elements 2(l % 4) and the one behind of row l / 4 of each.
__device__ __forceinline__ void load_matrices(uint32_t (&out)[4], SharedLine line, int offset) {
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(behind(line, offset))
               : "memory");
#else
  emulator::load_matrices<false>(out, behind(line, offset));
#endif
}

// The same, but of each matrix elements 2(l % 4) and the next of column l / 4.
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&out)[4], SharedLine line, int offset) {
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(behind(line, offset))
               : "memory");
#else
  emulator::load_matrices<true>(out, behind(line, offset));
#endif
}

// out [16, 8] = a [16, 16] · b [16, 8] + c [16, 8] in float16, added up in float32. Lane l holds, with g = l / 4 and
// t = l % 4, pairs of columns of a from (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8) on; pairs of rows of b from
// (2t, g), (2t + 8, g) on; out and c at (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
__device__ __forceinline__ void multiply_f16(float (&out)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                             const float (&c)[4]) {
#ifdef __CUDACC__
  float d[4];
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%10, %11, %12, %13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
  for (int i = 0; i < 4; ++i) out[i] = d[i];
#else
  emulator::multiply_m16n8k16<emulator::Element16::f16>(out, a, {b0, b1}, c);
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
