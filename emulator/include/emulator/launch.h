// Kernel launches.
#pragma once

#include <cstddef>
#include <tuple>
#include <utility>

#include "keywords.h"
#include "settings.h"

namespace emulator {

// Of one block, the most on any compute capability from 8.0 (163 KiB) to 12.0.
inline constexpr size_t kMaxSharedBytes = 227 << 10;
// Few, so that grids which are cut by their number stay small.
inline constexpr int kMultiprocessors = 4;

struct LaunchRequest {
  dim3 grid, block;
  size_t shared_bytes;
  void (*call)(const void* kernel);  // runs one thread
  const void* kernel;
};

cudaError_t launch_blocks(const LaunchRequest& request);

// kernel<<<grid, block, shared_bytes, stream>>>(arguments...), finished on return. Returns what CUDA would refuse, and
// throws std::runtime_error when something goes wrong inside the kernel.
template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t /*stream*/,
                   A&&... arguments) {
  static_assert(sizeof...(P) == sizeof...(A), "wrong number of kernel arguments");
  const std::tuple<P...> values(std::forward<A>(arguments)...);
  const auto thread = [&] { std::apply(kernel, values); };
  const auto call = [](const void* function) { (*static_cast<decltype(thread)*>(function))(); };
  return launch_blocks({grid, block, shared_bytes, call, &thread});
}

}  // namespace emulator

// The error of this OS thread's last launch that was refused, and forgets it.
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();

enum cudaDeviceAttr {  // with CUDA's numbers
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
};

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
// The compute capability is that of the card whose tensor cores are emulated: 8.0 or 9.0.
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device != 0) return cudaErrorInvalidDevice;
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = emulator::kMultiprocessors; break;
    case cudaDevAttrComputeCapabilityMajor: *value = emulator::tensor_core_bits() == 24 ? 8 : 9; break;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
  }
  return cudaSuccess;
}
