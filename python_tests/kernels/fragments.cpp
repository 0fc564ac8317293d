// One warp's tensor-core functions of csrc/cuda/platform.h, by the emulator or, compiled by nvcc, by a GPU: reads a
// case and the registers of all lanes from standard input, writes those of the result. Cases: "mma" (a[4], b[2] of each
// lane, each register as the two float16 numbers in it, and c[4]), "bits" (any number of products, a[4], b[2], c[4] of
// each lane in hexadecimal) and "ldmatrix" (32 lines of 8 numbers, and the line that each lane points at).
#include <cstdio>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

#include "cuda/platform.h"

namespace desc_ext::cuda {
namespace {

struct Registers {
  uint32_t a[4], b[2];
  float c[4];
  uint32_t loaded[4];
};

__global__ void multiply(Registers* lanes) {
  Registers& lane = lanes[blockIdx.x * blockDim.x + threadIdx.x];
  multiply_f16(lane.c, lane.a, lane.b[0], lane.b[1], lane.c);
}

__global__ void load(const uint16_t* lines, const int* line_of, Registers* lanes) {
  uint16_t* shared = static_cast<uint16_t*>(dynamic_shared());
  for (int i = 0; i < 8; ++i) shared[threadIdx.x * 8 + i] = lines[threadIdx.x * 8 + i];
  __syncthreads();
  load_matrices(lanes[threadIdx.x].loaded, shared_line(shared), 16 * line_of[threadIdx.x]);
}

uint16_t half_of(float x) { return __half_as_ushort(__float2half_rn(x)); }

// Memory that both sides see, for the life of this program.
template <class T>
T* both_sides(const std::vector<T>& values) {
  T* memory = nullptr;
#ifdef __CUDACC__
  if (cudaMallocManaged(&memory, values.size() * sizeof(T)) != cudaSuccess) return nullptr;
#else
  memory = new T[values.size()];
#endif
  std::memcpy(memory, values.data(), values.size() * sizeof(T));
  return memory;
}

// The error of a launch that has ended.
cudaError_t finished(cudaError_t error) {
#ifdef __CUDACC__
  if (error == cudaSuccess) error = cudaDeviceSynchronize();
#endif
  return error;
}

float number() {
  float x = 0;
  std::cin >> x;
  return x;
}

uint32_t pair() {
  const uint32_t low = half_of(number());
  return low | uint32_t(half_of(number())) << 16;
}

cudaError_t run_mma() {
  std::vector<Registers> lanes(kWarp);
  for (auto& lane : lanes) {
    for (auto& a : lane.a) a = pair();
    for (auto& b : lane.b) b = pair();
    for (auto& c : lane.c) c = number();
  }
  Registers* found = both_sides(lanes);
  const cudaError_t error = finished(launch(multiply, dim3(1), kWarp, 0, nullptr, found));
  for (int lane = 0; lane < kWarp; ++lane)
    for (int i = 0; i < 4; ++i) std::cout << found[lane].c[i] << (i < 3 ? ' ' : '\n');
  return error;
}

cudaError_t run_bits() {
  std::vector<Registers> lanes;
  for (Registers lane{};; lanes.push_back(lane)) {
    uint32_t words[10];
    size_t read = 0;
    while (read < 10 && std::scanf("%x", &words[read]) == 1) ++read;
    if (read < 10) break;
    std::memcpy(lane.a, words, sizeof(lane.a));
    std::memcpy(lane.b, words + 4, sizeof(lane.b));
    std::memcpy(lane.c, words + 6, sizeof(lane.c));
  }
  Registers* found = both_sides(lanes);
  const cudaError_t error = finished(launch(multiply, dim3(unsigned(lanes.size() / kWarp)), kWarp, 0, nullptr, found));
  for (size_t lane = 0; lane < lanes.size(); ++lane) {
    uint32_t words[4];
    std::memcpy(words, found[lane].c, sizeof(words));
    std::printf("%08x %08x %08x %08x\n", words[0], words[1], words[2], words[3]);
  }
  return error;
}

cudaError_t run_ldmatrix() {
  std::vector<uint16_t> lines(kWarp * 8);
  std::vector<int> line_of(kWarp);
  for (auto& value : lines) value = uint16_t(number());
  for (int& line : line_of) line = int(number());
  Registers* found = both_sides(std::vector<Registers>(kWarp));
  const cudaError_t error = finished(launch(load, dim3(1), kWarp, lines.size() * sizeof(uint16_t), nullptr,
                                            both_sides(lines), both_sides(line_of), found));
  for (int lane = 0; lane < kWarp; ++lane) {
    for (const uint32_t loaded : found[lane].loaded) std::cout << (loaded & 0xFFFF) << ' ' << (loaded >> 16) << ' ';
    std::cout << '\n';
  }
  return error;
}

}  // namespace
}  // namespace desc_ext::cuda

int main(int count, char** arguments) {
  using namespace desc_ext::cuda;
  const std::string what = count > 1 ? arguments[1] : "";
  const cudaError_t error = what == "mma"        ? run_mma()
                            : what == "bits"     ? run_bits()
                            : what == "ldmatrix" ? run_ldmatrix()
                                                 : cudaErrorInvalidValue;
  if (error != cudaSuccess) std::cerr << cudaGetErrorString(error) << '\n';
  return error == cudaSuccess ? 0 : 1;
}
