// What this machine can do at most: float32 multiply-adds a second, and bytes copied a second, with a given number of
// threads. Compiled for the machine it runs on, for benchmarks only.
#include <pybind11/pybind11.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
typedef float Vector __attribute__((vector_size(kBytes)));
constexpr int kLanes = kBytes / 4, kChains = 12;  // enough independent chains to hide the latency of a multiply-add

static volatile float sink;

static void multiply_add(int64_t steps) {
  Vector sum[kChains], factor, term;
  for (int i = 0; i < kLanes; ++i) factor[i] = 0.999f, term[i] = 1e-3f;
  for (auto& x : sum) x = factor;
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) sum[c] = sum[c] * factor + term;
  }
  for (auto& x : sum) sink = x[0];
}

template <class F>
static double seconds_on(int threads, const F& f) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> pool;
  for (int i = 0; i < threads; ++i) pool.emplace_back(f, i);
  for (auto& thread : pool) thread.join();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Best of several: a peak is what is possible, not what is usual.
static double fma_peak(int threads) {
  constexpr int64_t kSteps = 20'000'000;
  double best = 0;
  for (int repeat = 0; repeat < 5; ++repeat)
    best = std::max(best, 2.0 * kLanes * kChains * kSteps * threads /
                              seconds_on(threads, [](int) { multiply_add(kSteps); }));
  return best / 1e9;
}

static double copy_bandwidth(int threads) {
  constexpr size_t kSize = size_t(256) << 20;
  std::vector<std::vector<char>> from(threads, std::vector<char>(kSize, 1)), to = from;
  double best = 0;
  for (int repeat = 0; repeat < 5; ++repeat)
    best = std::max(best, 2.0 * kSize * threads / seconds_on(threads, [&](int i) {
                            std::memcpy(to[i].data(), from[i].data(), kSize);
                          }));
  return best / 1e9;
}

PYBIND11_MODULE(_peak, m) {
  m.def("fma_peak", &fma_peak, pybind11::arg("threads"), "float32 multiply-add peak, GFLOP/s");
  m.def("copy_bandwidth", &copy_bandwidth, pybind11::arg("threads"), "bytes read and written by memcpy, GB/s");
}
