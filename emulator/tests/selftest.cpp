// Tries the emulator itself: ./selftest lists the cases, ./selftest CASE runs one. Prints what went wrong and returns
// 1; that is what the cases of misuse are for.
#include <cmath>
#include <cstdio>
#include <exception>
#include <functional>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "selftest_kernels.h"

namespace emulator::selftest {
namespace {

void expect(bool right, const std::string& what) {
  if (!right) throw std::runtime_error("expected: " + what);
}

template <class... P, class... A>
void run(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, A&&... arguments) {
  const cudaError_t error = launch(kernel, grid, block, shared_bytes, nullptr, std::forward<A>(arguments)...);
  expect(error == cudaSuccess, std::string("a launch that succeeds, got ") + cudaGetErrorString(error));
}

std::vector<float> random_floats(size_t count) {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

void test_indices() {
  std::vector<int64_t> out(24 * 30, -1);
  run(write_indices, dim3(2, 3, 4), dim3(5, 3, 2), 0, out.data());
  for (int64_t i = 0; i < int64_t(out.size()); ++i)
    expect(out[size_t(i)] == i / 30 * 1000 + i % 30, "every thread of every block once, x fastest");
}

void test_product() {
  const int m = 35, n = 18, k = 41;
  const auto a = random_floats(size_t(m * k)), b = random_floats(size_t(k * n));
  std::vector<float> c(size_t(m * n), NAN);
  run(product<8>, dim3((n + 7) / 8, (m + 7) / 8), dim3(8, 8), 0, a.data(), b.data(), c.data(), m, n, k);
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; ++j) {
      double sum = 0;
      for (int l = 0; l < k; ++l) sum += double(a[size_t(i * k + l)]) * b[size_t(l * n + j)];
      expect(std::abs(sum - c[size_t(i * n + j)]) < 1e-5, "the product of the matrices");
    }
}

void test_softmax() {
  const int rows = 9, columns = 77;
  const auto in = random_floats(size_t(rows * columns));
  std::vector<float> out(in.size());
  run(softmax, dim3(rows), dim3(64), columns * sizeof(float), in.data(), out.data(), columns);
  for (int i = 0; i < rows; ++i) {
    double sum = 0;
    for (int j = 0; j < columns; ++j) sum += std::exp(double(in[size_t(i * columns + j)]));
    for (int j = 0; j < columns; ++j)
      expect(std::abs(std::exp(double(in[size_t(i * columns + j)])) / sum - out[size_t(i * columns + j)]) < 1e-6,
             "the softmax of each row");
  }
}

void test_copies() {
  const int threads = 32;
  for (const int size : {1, 127, 128, 515}) {
    const auto in = random_floats(size_t(size));
    std::vector<float> out(size_t(threads), NAN);
    run(pipelined_sum, dim3(1), dim3(threads), 2 * 4 * threads * sizeof(float), in.data(), size, out.data());
    double wanted = 0, sum = 0;
    for (const float value : in) wanted += value;
    for (const float value : out) sum += value;
    expect(std::abs(sum - wanted) < 1e-3, "the sum of what was copied, with zeros past the end");
  }
}

template <class T>
void test_shuffles_of(const std::function<T(int)>& make, const std::function<int(const T&)>& number) {
  std::vector<T> in;
  for (int lane = 0; lane < warpSize; ++lane) in.push_back(make(lane));
  for (const int width : {1, 2, 8, 32})
    for (const int by : {0, 1, 3, 16}) {
      std::vector<Shuffled<T>> out(warpSize);
      run(shuffles<T>, dim3(1), dim3(warpSize), 0, in.data(), out.data(), width, by);
      for (int lane = 0; lane < warpSize; ++lane) {
        const int group = lane / width;
        const auto& got = out[size_t(lane)];
        expect(number(got.indexed) == group * width + by % width, "__shfl_sync reads lane `by` of the group");
        expect(number(got.up) ==
                   ((lane - by + warpSize) / width - warpSize / width == group && lane >= by ? lane - by : lane),
               "__shfl_up_sync reads a lower lane of the group, or its own");
        expect(number(got.down) == ((lane + by) / width == group ? lane + by : lane),
               "__shfl_down_sync reads a higher lane of the group, or its own");
        expect(number(got.crossed) == ((lane ^ by) / width <= group ? lane ^ by : lane),
               "__shfl_xor_sync reads no later group");
      }
    }
}

void test_shuffles() {
  test_shuffles_of<char>([](int i) { return char(i); }, [](const char& v) { return int(v); });
  test_shuffles_of<short>([](int i) { return short(-i); }, [](const short& v) { return -int(v); });
  test_shuffles_of<float>([](int i) { return float(i) / 2; }, [](const float& v) { return int(2 * v); });
  test_shuffles_of<double>([](int i) { return i * 1e100; }, [](const double& v) { return int(v / 1e100 + 0.5); });
  test_shuffles_of<float4>([](int i) { return make_float4(0, float(i), 0, float(i)); },
                           [](const float4& v) { return v.y == v.w ? int(v.y) : -1; });
}

void test_votes() {
  for (const int every : {1, 5, 64, 1000}) {
    std::vector<int> predicate(96);
    int yes = 0;
    for (int i = 0; i < 96; ++i) yes += predicate[size_t(i)] = i % every == every - 1 ? 7 : 0;
    yes /= 7;
    std::vector<Votes> out(96);
    run(votes, dim3(1), dim3(96), 0, predicate.data(), out.data());
    for (int i = 0; i < 96; ++i) {
      unsigned ballot = 0;
      for (int lane = 0; lane < warpSize; ++lane)
        ballot |= unsigned(predicate[size_t(i / 32 * 32 + lane)] != 0) << lane;
      const Votes& got = out[size_t(i)];
      unsigned same = 0;
      for (int lane = 0; lane < warpSize; ++lane)
        same |= unsigned(predicate[size_t(i / 32 * 32 + lane)] == predicate[size_t(i)]) << lane;
      expect(got.same == same, "the lanes with the same value");
      expect(got.ballot == ballot && got.any == (ballot != 0) && got.all == (ballot == kAll), "the votes of the warp");
      expect(got.block_any == (yes > 0) && got.block_all == (yes == 96) && got.block_count == yes,
             "the votes of the block");
    }
  }
}

void test_masks() {
  std::vector<int> in(warpSize), out(warpSize);
  for (int i = 0; i < warpSize; ++i) in[size_t(i)] = i * i;
  run(partial_masks, dim3(1), dim3(warpSize), 0, in.data(), out.data());
  for (int i = 0; i < warpSize; ++i) {
    int sum = 0;
    for (int other = i % 3; other < warpSize; other += 3) sum += 2 * other * other + 1;
    expect(out[size_t(i)] == sum, "the sum over the lanes of each mask");
  }
  run(warp_order, dim3(1), dim3(warpSize), 16 * sizeof(int), in.data(), out.data());
  for (int i = 0; i < 16; ++i) expect(out[size_t(i)] == in[size_t((i + 1) % 16)] + 2, "the neighbour's value");
}

void test_atomics() {
  int sum = 0;
  unsigned smallest = 1000, largest = 0;
  double total = 0;
  run(atomics, dim3(4), dim3(50), 0, &sum, &smallest, &largest, &total);
  expect(sum == 200 && smallest == 0 && largest == 199 && total == 100, "every update once");
  std::vector<int> partial(6);
  unsigned finished = 0;
  run(last_block_sums, dim3(6), dim3(32), 0, partial.data(), &finished, &sum);
  expect(sum == 15, "what every block left, seen by the last one");
}

void test_shared() {
  for (const int floats : {1, 7, 1000, 58112}) {
    std::vector<float> known(3);
    run(fresh_shared, dim3(3), dim3(1), size_t(floats) * sizeof(float), known.data(), floats);
    for (const float count : known)
      expect(count == 0, "NaN in all of each block's shared memory, aligned to 128 bytes");
  }
}

std::vector<int> threads_in_order() {
  std::vector<int> out(96);
  int next = 0;
  run(order_of_threads, dim3(1), dim3(96), 0, &next, out.data());
  return out;
}

void test_order() {  // these kernels race, on purpose
  std::vector<int> forward(96), reverse(96);
  for (int i = 0; i < 96; ++i) forward[size_t(i)] = i, reverse[size_t(i)] = 95 - i;
  Settings wanted = settings();
  for (const BlockOrder blocks : {BlockOrder::forward, BlockOrder::reverse}) {
    set_settings({LaneOrder::forward, blocks, 0, 1});
    expect(threads_in_order() == forward, "threads from the first to the last");
    set_settings({LaneOrder::reverse, blocks, 0, 1});
    expect(threads_in_order() == reverse, "threads from the last to the first");
    std::vector<int> out(5);
    int next = 0;
    run(order_of_blocks, dim3(5), dim3(1), 0, &next, out.data());
    for (int i = 0; i < 5; ++i)
      expect(out[size_t(i)] == (blocks == BlockOrder::forward ? i : 4 - i), "blocks in the order asked for");
  }
  set_settings({LaneOrder::shuffled, BlockOrder::forward, 1, 1});
  const auto first = threads_in_order(), again = threads_in_order();
  set_settings({LaneOrder::shuffled, BlockOrder::forward, 2, 1});
  const auto second = threads_in_order();
  expect(first == again && first != second && first != forward, "an order by the seed");
  expect(std::set<int>(first.begin(), first.end()).size() == 96, "every thread once");
  set_settings(wanted);
}

void test_counters() {
  const auto in = random_floats(300);
  std::vector<float> out(32);
  reset_counters();
  run(pipelined_sum, dim3(1), dim3(32), 1024, in.data(), 300, out.data());
  run(write_indices, dim3(5), dim3(2), 16, std::vector<int64_t>(10).data());
  const Counters got = counters();
  expect(got.launches == 2 && got.blocks == 6 && got.barriers == 6, "2 launches, 6 blocks, 6 barriers");
  expect(got.largest_shared_bytes == 1024, "1024 bytes of shared memory at most");
  expect(got.loads == 96 && got.load_bytes == 1200 && got.stores == 32 && got.store_bytes == 128,
         "96 loads of 1200 bytes and 32 stores of 128");
  reset_counters();
  expect(counters().launches == 0 && counters().load_bytes == 0, "nothing after a reset");
}

void test_limits() {
  std::vector<int64_t> out(1);
  const auto refused = [&](dim3 grid, dim3 block, size_t shared_bytes, cudaError_t wanted) {
    const cudaError_t error = launch(write_indices, grid, block, shared_bytes, nullptr, out.data());
    expect(error == wanted && cudaPeekAtLastError() == wanted && cudaGetLastError() == wanted,
           cudaGetErrorString(wanted));
    expect(cudaGetLastError() == cudaSuccess, "the error forgotten once it was asked for");
  };
  for (const dim3 block : {dim3(1025), dim3(0), dim3(32, 33), dim3(1, 1, 65)})
    refused(dim3(1), block, 0, cudaErrorInvalidConfiguration);
  for (const dim3 grid : {dim3(0), dim3(1, 65536), dim3(1, 1, 65536), dim3(0x80000000u)})
    refused(grid, dim3(1), 0, cudaErrorInvalidConfiguration);
  refused(dim3(1), dim3(1), kMaxSharedBytes + 1, cudaErrorInvalidValue);
  run(write_indices, dim3(1), dim3(1024), kMaxSharedBytes, std::vector<int64_t>(1024).data());
}

// Against double precision: of the neighbours on both sides none is nearer, and at equal distance the even one is
// taken.
template <class ToBits, class FromBits>
void test_conversions_of(const ToBits& to_bits, const FromBits& from_bits, uint32_t infinity) {
  for (uint32_t bits = 0; bits <= infinity; ++bits) {
    const float value = from_bits(bits);
    expect(to_bits(value) == bits && to_bits(-value) == (bits | 0x8000), "every value and its negative back again");
    if (bits + 1 >= infinity) continue;
    const double middle = (double(value) + double(from_bits(bits + 1))) / 2;
    const float exact = float(middle);
    expect(to_bits(exact) == bits + bits % 2, "the even one of two that are equally near");
    expect(to_bits(std::nextafter(exact, 0.0f)) == bits && to_bits(std::nextafter(exact, INFINITY)) == bits + 1,
           "the nearest");
  }
  expect(to_bits(INFINITY) == infinity && to_bits(std::numeric_limits<float>::max()) == infinity,
         "infinity past the largest");
  expect(std::isnan(from_bits(to_bits(NAN))), "NaN for NaN");
}

void test_conversions() {
  test_conversions_of([](float x) { return uint32_t(__half_as_ushort(__float2half_rn(x))); },
                      [](uint32_t bits) { return __half2float(__ushort_as_half((unsigned short)(bits))); }, 0x7c00);
  test_conversions_of([](float x) { return uint32_t(__bfloat16_as_ushort(__float2bfloat16_rn(x))); },
                      [](uint32_t bits) { return __bfloat162float(__ushort_as_bfloat16((unsigned short)(bits))); },
                      0x7f80);
}

void test_use_after_error() {
  for (int i = 0; i < 3; ++i) {
    bool thrown = false;
    try {
      run(deadlock, dim3(2), dim3(64), 0);
    } catch (const std::runtime_error&) {
      thrown = true;
    }
    expect(thrown, "an error");
    test_softmax();
  }
}

std::vector<std::pair<std::string, void (*)()>> computations() {
  return {{"indices", test_indices}, {"product", test_product},   {"softmax", test_softmax},
          {"copies", test_copies},   {"shuffles", test_shuffles}, {"votes", test_votes},
          {"masks", test_masks},     {"atomics", test_atomics},   {"shared", test_shared}};
}

// Everything that computes, in every order, and on several OS threads.
void test_all_orders() {
  for (const LaneOrder lanes : {LaneOrder::forward, LaneOrder::reverse, LaneOrder::shuffled})
    for (const BlockOrder blocks : {BlockOrder::forward, BlockOrder::reverse})
      for (const int threads : {1, 3}) {
        set_settings({lanes, blocks, 7, threads});
        for (const auto& [name, test] : computations()) test();
      }
}

float* zeros() {
  static std::vector<float> values(1024);
  return values.data();
}

const std::map<std::string, std::function<void()>>& cases() {
  static const std::map<std::string, std::function<void()>> all = {
      {"all_orders", test_all_orders},
      {"order", test_order},
      {"counters", test_counters},
      {"limits", test_limits},
      {"conversions", test_conversions},
      {"use_after_error", test_use_after_error},
      {"divergent_barrier", [] { run(divergent_barrier, dim3(1), dim3(64), 0); }},
      {"deadlock", [] { run(deadlock, dim3(1), dim3(64), 0); }},
      {"unequal_masks", [] { run(unequal_masks, dim3(1), dim3(32), 0); }},
      {"lane_outside_mask", [] { run(lane_outside_mask, dim3(1), dim3(32), 0); }},
      {"read_outside_mask", [] { run(read_outside_mask, dim3(1), dim3(32), 0); }},
      {"ended_lane", [] { run(ended_lane, dim3(1), dim3(32), 0); }},
      {"lane_that_never_was", [] { run(full_mask, dim3(1), dim3(48), 0); }},
      {"divergent_collective", [] { run(divergent_collective, dim3(1), dim3(32), 0); }},
      {"odd_width", [] { run(odd_width, dim3(1), dim3(32), 0); }},
      {"misaligned_shared", [] { run(misaligned_copy, dim3(1), dim3(1), 64, zeros(), 1, 0); }},
      {"misaligned_global", [] { run(misaligned_copy, dim3(1), dim3(1), 64, zeros(), 0, 2); }},
      {"copy_of_odd_size", [] { run(copy_of_odd_size, dim3(1), dim3(1), 64, zeros()); }},
      {"copy_never_waited_for", [] { run(copy_never_waited_for, dim3(1), dim3(2), 64, zeros()); }},
      {"trap", [] { run(trap, dim3(1, 2), dim3(4), 0); }},
      {"race_in_block", [] { run(race_in_block, dim3(1), dim3(32), 128, zeros()); }},
      {"race_across_shuffle", [] { run(race_across_shuffle, dim3(1), dim3(32), 128, zeros()); }},
      {"race_between_blocks", [] { run(race_between_blocks, dim3(2), dim3(32), 0, zeros()); }},
      {"race_after_copy", [] { run(race_after_copy, dim3(1), dim3(32), 128, zeros(), zeros() + 32); }},
      {"race_before_copy", [] { run(race_before_copy, dim3(1), dim3(32), 128, zeros(), zeros() + 32); }},
      {"shared_overrun", [] { run(shared_overrun, dim3(1), dim3(32), 128); }},
      {"copy_past_the_end", [] { run(copy_past_the_end, dim3(1), dim3(32), 512, std::vector<float>(127).data()); }},
      {"misaligned_vector",
       [] { run(misaligned_vector, dim3(1), dim3(4), 0, zeros(), reinterpret_cast<float4*>(zeros() + 512)); }},
  };
  return all;
}

}  // namespace
}  // namespace emulator::selftest

int main(int count, char** arguments) {
  using emulator::selftest::cases;
  emulator::without_address_randomisation(arguments);
  if (count != 2 || !cases().count(arguments[1])) {
    for (const auto& [name, test] : cases()) std::printf("%s\n", name.c_str());
    return count == 1 ? 0 : 2;
  }
  try {
    cases().at(arguments[1])();
  } catch (const std::exception& error) {
    std::printf("%s\n", error.what());
    return 1;
  }
  std::printf("ok\n");
  return 0;
}
