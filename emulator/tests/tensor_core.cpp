// One warp's mma and ldmatrix, for tests that compute the results by themselves: reads from standard input, in
// hexadecimal, what all lanes hold, and writes what they get. ./tensor_core mma f16|bf16 24|25: a[4], b[2], c[4] of
// each lane. ./tensor_core ldmatrix plain|trans: 32 lines of 8 elements, and the line that each lane points at.
#include <bit>
#include <cstdio>
#include <string>
#include <vector>

#include <cuda_runtime.h>

namespace emulator {
namespace {

struct Lane {
  uint32_t a[4], b[2];
  float c[4];
};

template <Element16 element>
__global__ void multiply(Lane* lanes) {
  Lane& lane = lanes[threadIdx.x];
  multiply_m16n8k16<element>(lane.c, lane.a, lane.b, lane.c);
}

template <bool Transposed>
__global__ void load(const uint16_t* lines, const int* line_of, Lane* lanes) {
  load_matrices<Transposed>(lanes[threadIdx.x].a, lines + 8 * line_of[threadIdx.x]);
}

uint32_t next() {
  unsigned value = 0;
  if (std::scanf("%x", &value) != 1) std::exit(3);
  return value;
}

}  // namespace
}  // namespace emulator

int main(int count, char** arguments) {
  using namespace emulator;
  const std::vector<std::string> asked(arguments + 1, arguments + count);
  if (asked.size() < 2) return 2;
  Lane lanes[warpSize] = {};
  cudaError_t error = cudaErrorInvalidValue;
  if (asked[0] == "mma" && asked.size() == 3) {
    Settings wanted;
    wanted.tensor_core_bits = std::stoi(asked[2]);
    set_settings(wanted);
    for (;;) {  // as many products as there are
      unsigned first = 0;
      if (std::scanf("%x", &first) != 1) return 0;
      for (auto& lane : lanes) {
        for (auto& a : lane.a) a = &lane == lanes && &a == lane.a ? first : next();
        for (auto& b : lane.b) b = next();
        for (auto& c : lane.c) c = std::bit_cast<float>(next());
      }
      error = asked[1] == "f16" ? launch(multiply<Element16::f16>, dim3(1), dim3(32), 0, nullptr, lanes)
                                : launch(multiply<Element16::bf16>, dim3(1), dim3(32), 0, nullptr, lanes);
      if (error != cudaSuccess) return 1;
      for (const auto& lane : lanes) {
        for (const float c : lane.c) std::printf("%08x ", std::bit_cast<uint32_t>(c));
        std::printf("\n");
      }
    }
  }
  alignas(16) uint16_t lines[warpSize * 8];
  int line_of[warpSize];
  for (auto& value : lines) value = uint16_t(next());
  for (int& line : line_of) line = int(next());
  error = asked[1] == "trans" ? launch(load<true>, dim3(1), dim3(32), 0, nullptr, lines, line_of, lanes)
                              : launch(load<false>, dim3(1), dim3(32), 0, nullptr, lines, line_of, lanes);
  for (const auto& lane : lanes) {
    for (const uint32_t a : lane.a) std::printf("%08x ", a);
    std::printf("\n");
  }
  return error == cudaSuccess ? 0 : 1;
}
