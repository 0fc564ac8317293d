// One warp's tensor-core functions, for tests that know where the PTX document puts each element: reads a case and the
// registers of all lanes from standard input, writes those of the result. Cases: "mma" (a[4], b[2] of each lane) and
// "ldmatrix" (32 lines of 4 floats, and the line that each lane points at).
#include <iostream>
#include <string>

#include "cuda/tensor.cuh"

namespace desc_ext::cuda {
namespace {

struct Registers {
  float a[4], b[2], sum[4];
};

__global__ void multiply(Registers* lanes) {
  Registers& lane = lanes[threadIdx.x];
  multiply_tf32(lane.sum, lane.a, lane.b[0], lane.b[1]);
}

__global__ void load(const float* lines, const int* line_of, Registers* lanes) {
  load_matrices(lanes[threadIdx.x].sum, shared_line(lines), 4 * line_of[threadIdx.x]);
}

}  // namespace
}  // namespace desc_ext::cuda

int main() {
  using namespace desc_ext::cuda;
  std::string what;
  std::cin >> what;
  Registers lanes[kWarp] = {};
  cudaError_t error = cudaErrorInvalidValue;
  if (what == "mma") {
    for (auto& lane : lanes) std::cin >> lane.a[0] >> lane.a[1] >> lane.a[2] >> lane.a[3] >> lane.b[0] >> lane.b[1];
    error = launch(multiply, dim3(1), kWarp, 0, nullptr, lanes);
  } else if (what == "ldmatrix") {
    float lines[kWarp * 4];
    int line_of[kWarp];
    for (float& value : lines) std::cin >> value;
    for (int& line : line_of) std::cin >> line;
    error = launch(load, dim3(1), kWarp, 0, nullptr, lines, line_of, lanes);
  }
  for (const auto& lane : lanes)
    std::cout << lane.sum[0] << ' ' << lane.sum[1] << ' ' << lane.sum[2] << ' ' << lane.sum[3] << '\n';
  return error == cudaSuccess && std::cin ? 0 : 1;
}
