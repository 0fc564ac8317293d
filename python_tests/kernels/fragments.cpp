// One warp's tensor-core functions of csrc/cuda/platform.h, for tests that know where the PTX document puts each
// element: reads a case and the registers of all lanes from standard input, writes those of the result. Cases: "mma"
// (a[4], b[2] of each lane, each register as the two float16 numbers in it, and c[4]) and "ldmatrix" (32 lines of 8
// numbers, and the line that each lane points at).
#include <iostream>
#include <string>

#include "cuda/platform.h"

namespace desc_ext::cuda {
namespace {

uint16_t half_of(float x) { return __half_as_ushort(__float2half_rn(x)); }

struct Registers {
  uint32_t a[4], b[2];
  float c[4];
  uint32_t loaded[4];
};

__global__ void multiply(Registers* lanes) {
  Registers& lane = lanes[threadIdx.x];
  multiply_f16(lane.c, lane.a, lane.b[0], lane.b[1], lane.c);
}

__global__ void load(const uint16_t* lines, const int* line_of, Registers* lanes) {
  load_matrices(lanes[threadIdx.x].loaded, shared_line(lines), 16 * line_of[threadIdx.x]);
}

}  // namespace
}  // namespace desc_ext::cuda

int main() {
  using namespace desc_ext::cuda;
  std::string what;
  std::cin >> what;
  const auto number = [] {
    float x = 0;
    std::cin >> x;
    return x;
  };
  Registers lanes[kWarp] = {};
  cudaError_t error = cudaErrorInvalidValue;
  if (what == "mma") {
    const auto pair = [&] {
      const uint32_t low = half_of(number());
      return low | uint32_t(half_of(number())) << 16;
    };
    for (auto& lane : lanes) {
      for (auto& a : lane.a) a = pair();
      for (auto& b : lane.b) b = pair();
      for (auto& c : lane.c) c = number();
    }
    error = launch(multiply, dim3(1), kWarp, 0, nullptr, lanes);
    for (const auto& lane : lanes)
      std::cout << lane.c[0] << ' ' << lane.c[1] << ' ' << lane.c[2] << ' ' << lane.c[3] << '\n';
  } else if (what == "ldmatrix") {
    alignas(16) uint16_t lines[kWarp * 8];
    int line_of[kWarp];
    for (auto& value : lines) value = uint16_t(number());
    for (int& line : line_of) line = int(number());
    error = launch(load, dim3(1), kWarp, 0, nullptr, lines, line_of, lanes);
    for (const auto& lane : lanes) {
      for (const uint32_t loaded : lane.loaded) std::cout << (loaded & 0xFFFF) << ' ' << (loaded >> 16) << ' ';
      std::cout << '\n';
    }
  }
  return error == cudaSuccess && std::cin ? 0 : 1;
}
